"""Train a small DeepSeek-style model on text that is at hand, save it, and let it speak.

    python examples/train.py
    python examples/train.py --text my_text.txt --minutes 5

Without --text it learns from Python's own standard library. The model is that of
small-deepseek-v3.yaml: latent attention, and experts that are levelled without an auxiliary loss.
The same seed, number of steps, threads and text give the same weights.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import random
import shutil
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from archsmith.compiler.driver import Compiler
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

SPEC = Path(__file__).with_name("small-deepseek-v3.yaml")
END = "<|end|>"  # stands before each document, and so ends the one before
MOST_TEXT = 8 << 20  # characters of text to learn from
HELD_OUT = 0.05  # the share of documents that is kept for validation
LENGTH = 128  # of a row
VALIDATION_BATCHES = 8
STEPS = 450  # about three minutes on two cores
WARMUP, PEAK = 50, 4e-3  # steps, and the learning rate behind them
BIAS_RATE = 1e-2  # of the experts' selection bias: a few hundred steps ask for more than 1e-3
SEQUENCE_LOSS = 1e-4  # the weight of DeepSeek-V3's complementary loss
TIMED = 5  # steps by which --minutes learns how fast this machine is


@dataclass
class Run:
    """A model in training: where it stands, and what it learns from."""

    package: ModuleType
    model: Any
    optimizer: torch.optim.AdamW
    tokenizer: Tokenizer
    text: Tensor
    validation: Tensor
    rows: int
    seed: int
    step: int = 0


def main(arguments: list[str] | None = None) -> None:
    options = parsed(arguments)
    torch.manual_seed(options.seed)
    out: Path = options.out
    if options.text is not None and not options.text.is_file():
        sys.exit(f"--text {options.text} is no file")
    if options.resume and not (out / "checkpoint" / "training.pt").is_file():
        sys.exit(f"{out / 'checkpoint'} holds no run to resume")
    start = time.perf_counter()
    documents = read(options.text, options.seed)
    held = max(1, round(HELD_OUT * len(documents)))
    package = package_in(out, build=not options.resume, prove=options.proof)
    if options.resume:
        tokenizer = Tokenizer.from_file(str(out / "checkpoint" / "tokenizer.json"))
    else:
        tokenizer = tokenizer_of(documents[held:], package.Config.vocab_size)
    validation, text = (encoded(tokenizer, part) for part in (documents[:held], documents[held:]))
    if min(len(text), len(validation)) < options.rows * (LENGTH + 1):
        sys.exit(f"the text has too few tokens: {len(text)}, and {len(validation)} held out")

    model = package.load(out / "checkpoint") if options.resume else package.Model()
    data = tokenizer, text, validation, options.rows, options.seed
    run = Run(package, model, optimizer_of(model), *data)
    if options.resume:
        resume(run, out)
    unigram = entropy_of_unigrams(text, validation, package.Config.vocab_size)
    characters = len(tokenizer.decode(validation.tolist(), skip_special_tokens=False))
    weights = sum(weight.numel() for weight in run.model.parameters())
    print(f"{weights:,} weights; {len(text):,} tokens of text, {len(validation):,} held out")
    print(f"step {run.step}: validation loss {validated(run):.3f}; of unigrams {unigram:.3f}")

    try:
        steps = train(run, options, out)
    except KeyboardInterrupt:
        sys.exit(f"stopped at step {run.step}; --resume goes on from what was saved last, if any")
    loss = validated(run)
    save(run, out)
    bits = loss * len(validation) / characters / math.log(2)
    minutes = (time.perf_counter() - start) / 60
    print(f"step {run.step}: validation loss {loss:.3f}, {bits:.3f} bits a character")
    print(f"{minutes:.1f} minutes in all; --steps {steps} gives the same weights again. Now try:")
    at = f"{out / 'small_deepseek_v3'} --weights {out / 'checkpoint'}"
    print(f'  archsmith run {at} --prompt "def main(" --max-new 100')


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build", "train"), help="the folder")
    parser.add_argument("--text", type=Path, help="UTF-8 text, in place of the standard library")
    parser.add_argument("--steps", type=int, default=STEPS, help="in all, with those resumed from")
    parser.add_argument("--minutes", type=float, help="as many steps as this takes, about")
    parser.add_argument("--resume", action="store_true", help="go on from what --out holds")
    parser.add_argument("--rows", type=int, default=16, help="of a batch, 128 tokens each")
    parser.add_argument("--save-every", type=int, default=200, metavar="STEPS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-proof", dest="proof", action="store_false", help="of the package")
    return parser.parse_args(arguments)


def read(path: Path | None, seed: int) -> list[str]:
    """Return documents in a random order: files of the standard library, or parts of a text."""
    if path is not None:
        text = path.read_text(encoding="utf-8")[:MOST_TEXT]
        size = max(1, len(text) // 100)
        documents = [text[i : i + size] for i in range(0, len(text), size)]
    else:
        library = Path(sysconfig.get_path("stdlib"))
        files = sorted(library.rglob("*.py"))
        own = [f for f in files if not {"site-packages", "test", "tests"} & set(f.parts)]
        documents = [file.read_text(encoding="utf-8", errors="replace") for file in own]
    random.Random(seed).shuffle(documents)
    kept, size = [], 0
    for document in documents:
        if (size := size + len(document)) <= MOST_TEXT:
            kept.append(document)
    return kept


def package_in(out: Path, *, build: bool, prove: bool) -> ModuleType:
    """Build the spec's package and prove it, or take the one that is there; import it."""
    name = "small_deepseek_v3"
    if build:
        compiler = Compiler.installed(numeric=prove)
        pipeline, passes = compiler.passes(None)
        compiler.package(compiler.load(SPEC), out / name, pipeline, passes, prove=prove)
    sys.path.insert(0, str(out))
    importlib.invalidate_caches()
    return importlib.import_module(name)


def tokenizer_of(documents: list[str], vocabulary: int) -> Tokenizer:
    """Learn a byte-level BPE (arXiv:1508.07909)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, end)]
    )
    return tokenizer


def encoded(tokenizer: Tokenizer, documents: list[str]) -> Tensor:
    """Return the tokens of all documents, one behind the other: int64 [N]."""
    ids = [token for each in tokenizer.encode_batch(documents) for token in each.ids]
    return torch.tensor(ids, dtype=torch.int64)


def entropy_of_unigrams(text: Tensor, validation: Tensor, vocabulary: int) -> float:
    """Return the loss of a model that knows how frequent tokens are and no more, in nats."""
    counts = torch.bincount(text, minlength=vocabulary).double() + 1
    return float(-(counts / counts.sum()).log()[validation].mean())


def optimizer_of(model: Any) -> torch.optim.AdamW:
    """Return AdamW (arXiv:1711.05101); what is no matrix does not decay."""
    weights = list(model.parameters())
    groups = [
        {"params": [weight for weight in weights if weight.dim() > 1], "weight_decay": 0.1},
        {"params": [weight for weight in weights if weight.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.95))


def batch(run: Run) -> Tensor:
    """Return rows of the text for the current step, int64 [rows, LENGTH + 1], drawn by the seed."""
    draw = torch.Generator().manual_seed(run.seed * 1_000_003 + run.step)
    starts = torch.randint(len(run.text) - LENGTH, (run.rows, 1), generator=draw)
    return run.text[starts + torch.arange(LENGTH + 1)]


def train(run: Run, options: argparse.Namespace, out: Path) -> int:
    """Train up to so many steps, telling how it goes; return how many that were."""
    balance, steps = run.package.balance, options.steps
    first = told = run.step
    start = since = time.perf_counter()
    while run.step < steps:
        tokens = batch(run)
        rate = PEAK * min((run.step + 1) / WARMUP, math.sqrt(WARMUP / (run.step + 1)))
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        with balance.recording(run.model) as routes:
            loss = run.model.loss(tokens[:, :-1], tokens[:, 1:])
        (loss + SEQUENCE_LOSS * balance.sequence_loss(routes)).backward()
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        run.optimizer.step()
        run.optimizer.zero_grad()
        balance.update_bias(run.model, routes, BIAS_RATE)
        run.step += 1

        done = run.step - first
        if options.minutes is not None and done == TIMED:
            each = (time.perf_counter() - start) / TIMED
            steps = max(run.step, first + round(60 * options.minutes / each))
        if done in (1, 10) or run.step % 50 == 0 or run.step == steps:
            speed = (run.step - told) * run.rows * LENGTH / (time.perf_counter() - since)
            told, since = run.step, time.perf_counter()
            print(
                f"step {run.step}/{steps}: loss {loss.item():.3f}, {speed:,.0f} tokens/s,"
                f" the fullest expert has {fullest(routes):.2f} times the mean",
                flush=True,
            )
        if run.step % options.save_every == 0 and run.step < steps:
            save(run, out)
    return run.step


def fullest(routes: Any) -> float:
    """Return the largest load of an expert over the mean one, of the layer where that is most."""
    counts = [route.counts().double() for route in routes.values()]
    return max(float(each.max() / each.mean()) for each in counts)


@torch.no_grad()
def validated(run: Run) -> float:
    """Return the mean loss of the first batches of what was held out, in nats a token."""
    rows = run.validation[: len(run.validation) // (LENGTH + 1) * (LENGTH + 1)]
    rows = rows.view(-1, LENGTH + 1)[: run.rows * VALIDATION_BATCHES]
    losses = []
    for part in rows.split(run.rows):
        losses.append(run.model.loss(part[:, :-1], part[:, 1:], reduction="none"))
    return float(torch.cat(losses).mean())


def save(run: Run, out: Path) -> None:
    """Write the checkpoint, its tokenizer, and what training goes on from, in place of the old."""
    new, folder = out / "checkpoint.new", out / "checkpoint"
    shutil.rmtree(new, ignore_errors=True)
    run.package.save(run.model, new)
    run.tokenizer.save(str(new / "tokenizer.json"))
    ends = {"eos_token_id": run.tokenizer.token_to_id(END)}
    (new / "generation_config.json").write_text(json.dumps(ends) + "\n", encoding="utf-8")
    state = {"step": run.step, "seed": run.seed, "optimizer": run.optimizer.state_dict()}
    torch.save(state, new / "training.pt")
    old = out / "checkpoint.old"
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)  # two renames: so short is the time without a checkpoint
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def resume(run: Run, out: Path) -> None:
    """Put a run where the one stands whose checkpoint it was given."""
    state = torch.load(out / "checkpoint" / "training.pt", weights_only=True)
    if state["seed"] != run.seed:
        sys.exit(f"{out} was trained with --seed {state['seed']}, which says what is held out")
    run.step = state["step"]
    run.optimizer.load_state_dict(state["optimizer"])


if __name__ == "__main__":
    main()
