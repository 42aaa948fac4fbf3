"""How fast a package decodes beside `transformers`: the same weights, the same process, medians.

    python examples/bench_decode.py --context 2048 8192

The model has the shape of DeepSeek-V2 (arXiv:2405.04434) with few and narrow layers. Both are timed
in turns, a token at a time, so that what else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from archsmith.compiler.driver import Compiler
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM, DynamicCache

CHUNK = 512  # tokens of a prefill: all at once would hold every score
SHAPE = {
    "vocab_size": 32000,
    "hidden_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "q_lora_rank": None,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "intermediate_size": 2816,
    "first_k_dense_replace": 1,
    "n_routed_experts": 32,
    "num_experts_per_tok": 6,
    "n_shared_experts": 2,
    "moe_intermediate_size": 704,
    "max_position_embeddings": 16384,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--context", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument("--steps", type=int, default=16, help="timed tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pipeline", help="of the package; by default what `build` takes")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        theirs, ours = models(Path(name), given.pipeline)
        for context in given.context:
            print(json.dumps(compare(theirs, ours, context, given.steps)), flush=True)


def models(folder: Path, pipeline: str | None) -> tuple[Any, Any]:
    """A model of random weights in `transformers`, and the package that has loaded them."""
    theirs = DeepseekV2ForCausalLM(DeepseekV2Config(**SHAPE)).to(torch.bfloat16).eval()
    theirs.save_pretrained(folder / "checkpoint")
    compiler = Compiler.installed()
    page = folder / "bench.yaml"
    page.write_text(compiler.read_configuration(folder / "checkpoint", "bench")[0])
    spec = compiler.load(page)
    compiler.package(spec, folder / "bench", *compiler.passes(pipeline or spec.pipeline))
    sys.path.insert(0, str(folder))
    return theirs, importlib.import_module("bench").load(folder / "checkpoint")


def compare(theirs: Any, ours: Any, context: int, steps: int) -> dict[str, Any]:
    """Fill both caches with the same random tokens, then decode in turns."""
    tokens = torch.randint(theirs.config.vocab_size, (1, context))
    held = DynamicCache(config=theirs.config)
    cache = ours.new_cache(batch=1, length=context + steps + 1)
    filled: dict[str, float] = {}
    for name, fill in (
        ("transformers", lambda part: theirs(part, past_key_values=held, logits_to_keep=1)),
        ("package", lambda part: ours.prefill(part, cache)),
    ):
        filled[name] = sum(seconds(partial(fill, part)) for part in tokens.split(CHUNK, 1))
    token = tokens[:, -1]
    times: dict[str, list[float]] = {"transformers": [], "package": []}
    for _ in range(steps + 1):
        times["transformers"].append(seconds(lambda: theirs(token[:, None], past_key_values=held)))
        times["package"].append(seconds(lambda: ours.decode(token, cache)))
    rates = {name: 1 / statistics.median(each[1:]) for name, each in times.items()}
    rows = sum(t.nbytes for layer in held.layers for t in (layer.keys, layer.values))
    gc.collect()
    return {
        "context": context,
        "tokens_per_second": {name: round(rate, 2) for name, rate in rates.items()},
        "ratio": round(rates["package"] / rates["transformers"], 2),
        "cache_bytes_per_token": {
            "transformers": rows // (context + steps + 1),
            "package": cache.bytes_per_token,
        },
        "prefill_seconds": {name: round(time, 1) for name, time in filled.items()},
    }


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
