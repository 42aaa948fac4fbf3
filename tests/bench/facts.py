"""What is known of our kernels without a GPU: what they compile to, and what they move."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from archsmith.compiler.machine.roofline import floor
from archsmith.compiler.machine.target import Target
from archsmith.compiler.plugins import Registry

from . import ours
from .cases import EXPERTS, Case, experts, small

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- python -m tests.bench facts --write -->", "<!-- as written -->"
TARGET = "h200"
JOBS = {
    "deepseek-v2-lite": "V2-Lite",
    "qwen3-30b-a3b": "Qwen3-30B",
    "deepseek-v3": "V3",
    "mixtral-8x7b": "Mixtral",
    "llama-3-8b": "Llama 3 8B",
    "gradients": "gradients",
    "float8_e4m3fn-activations": "V2-Lite, float8",
    "deepseek-v3-float8_e4m3fn-activations": "V3, float8",
    "deepseek-v3-float8_e4m3fn": "V3, weights in float8",
    "latent-in-float8-16": "V2-Lite, latent in float8",
    "latent-in-float8-128": "V3, latent in float8",
    "gluon-float8-bfloat16": "V3, latent in float8",
    "paged-deepseek-v2-lite": "V2-Lite, pages",
    "paged-deepseek-v3": "V3, pages",
    "paged-llama-3-8b": "Llama 3 8B, pages",
}
FILES = ("grouped_gemm", "quantized_gemm", "rms_norm", "add_rms_norm", "gated_activation")
OTHERS = (
    "decode_attention",
    "latent_attention",
    "quantized_attention",
    "quantized_latent_attention",
    "prefill_attention",
    "overlapped_attention",
    "fused_router",
    "fused_linear_cross_entropy",
    "rms_norm_linear",
    "project_heads",
    "project_latent",
    "append_heads",
    "append_latent",
    "head_product",
    "rope",
)
SIZES = ("N", "D", "E", "OUT", "IN", "H", "R", "KEY", "REST", "VALUE")
BESIDE = (
    "_sort",
    "_count",
    "_place",
    "_combine",
    "combine_parts",
    "combine_splits",
    "_add_sums",
    "_round",
)  # kernels that take little beside the others
TOKENS = (1, 8, 32, 512, 4096, 32768)

# Of a processor of compute capability 9.0 (CUDA C++ Programming Guide, technical specifications):
REGISTERS = 65536
THREADS = 2048
PROGRAMS = 32
RESERVED = 1024  # bytes of shared memory of each program, beside its own
GRANULE = 256  # registers, by which a warp is given them


def main(write: bool) -> None:
    """Print the tables, or write them into the page between its marks."""
    text = tables(Registry.installed())
    if not write:
        print(text)
        return
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def tables(registry: Registry) -> str:
    target = registry.targets[TARGET]
    newest = max(
        (path for path in (ROOT / "tests" / "kernels" / "facts").iterdir() if path.is_dir()),
        key=lambda path: [int(part) for part in path.name.split(".")],
    )
    heads = ["of", "kernel", "sizes", "tile", "warps", "stages", "instruction", "registers"]
    heads += ["spilled", "shared, KB", "programs"]
    compiled, others = (
        _markdown(heads, _compiled(newest / TARGET, target, files)) for files in (FILES, OTHERS)
    )
    heads = ["of", "tokens", "kernel", "launches", "moved, MB", "least, MB", "floor, us", "bound"]
    return (
        f"With Triton {newest.name}, for {target.describes}:\n\n{compiled}\n\n"
        "Attention, and what stands around it: R query heads read the same keys, KEY and REST"
        f" columns wide.\n\n{others}\n\n"
        f"What they move, and what no kernel could save, by the target's data sheet:\n\n"
        f"{_markdown(heads, _moved(registry, target))}"
    )


def _compiled(folder: Path, target: Target, files: Sequence[str]) -> Iterator[Sequence[str]]:
    """A row for each kernel and what it is compiled with, whichever models have it."""
    found: dict[tuple[str, ...], list[str]] = {}
    for file in files:
        for job, named in JOBS.items():
            for path in sorted((folder / job).glob(f"{file}*.json")):
                if path.stem.removesuffix("_gradients") != file:
                    continue
                facts = json.loads(path.read_text(encoding="utf-8"))["kernels"]
                for fact in (fact for fact in facts if fact["kernel"] not in BESIDE):
                    models = found.setdefault(_facts(fact, target), [])
                    models += [named] * (named not in models)
    yield from ([", ".join(models), *row] for row, models in found.items())


def _facts(fact: Mapping[str, Any], target: Target) -> tuple[str, ...]:
    options = dict(fact["options"])
    warps, stages = options.get("num_warps", 4), options.get("num_stages")
    sizes = [f"{key} {options[key]:,}" for key in SIZES if key in options]
    blocks = [key for key in ("ROWS", "BLOCK_M", "BLOCK_N", "BLOCK_K") if key in options]
    blocks = blocks or [key for key in ("BLOCK", "HEADS", "PAIRS") if key in options]
    multiplied = [f"{count} {name}" for name, count in fact["instructions"].items()]
    return (
        f"`{fact['kernel'].strip('_')}`",
        ", ".join(sizes),
        " x ".join(str(options[key]) for key in blocks) + " swapped" * options.get("SWAPPED", 0),
        str(warps),
        str(stages or "-"),
        ", ".join(multiplied) or "-",
        str(fact["registers"]),
        str(fact["spills"]),
        f"{fact['shared'] / 1024:.1f}",
        str(programs(fact["registers"], warps, fact["shared"], target)),
    )


def programs(registers: int, warps: int, shared: int, target: Target) -> int:
    """How many programs a processor holds at a time."""
    each = -(-registers * 32 // GRANULE) * GRANULE * warps
    room = target.shared_memory + RESERVED
    limits = REGISTERS // each, THREADS // (32 * warps), room // (shared + RESERVED), PROGRAMS
    return min(limits)


def _moved(registry: Registry, target: Target) -> Iterator[Sequence[str]]:
    cases = [experts(model, TOKENS, float8=narrow) for narrow in (False, True) for model in EXPERTS]
    cases += [case for case in small() if not case.gradients]
    for case in cases:
        yield from _calls(case, registry, target)


def _calls(case: Case, registry: Registry, target: Target) -> Iterator[Sequence[str]]:
    plan = ours.plan(case, registry, target)
    for sizes in case.calls:
        kernel = ours.choice(plan, case.phase(sizes)).kernel
        taken = kernel.cost(case.op, case.operands, sizes, target)
        work = case.work(sizes)
        least = floor(work, case.multiplied, target)
        assert least is not None
        yield (
            case.name,
            f"{sizes.rows:,}",
            f"`{kernel.name}`",
            str(taken.launches),
            f"{taken.bytes / 1e6:,.1f}",
            f"{work.bytes / 1e6:,.1f}",
            f"{least.seconds * 1e6:,.1f}",
            least.bound,
        )


def _markdown(heads: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [heads, ["--"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
