"""Every pass on small graphs: each `.ir` file holds pairs of text, before and after its pass.

A pair is a line `# title:`, a block or a model, a line `->`, and what it becomes. A title
"Leaves ... alone" has no second text. A line `# because:` holds words of the reason for refusing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.ir.text import print_block, print_model
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.pipeline import Outcome, Runner

HERE = Path(__file__).parent
PLUGIN = HERE.parents[1] / "examples" / "custom_pass" / "tests"
FILES = sorted([*HERE.glob("*.ir"), *PLUGIN.glob("*.ir")])


@dataclass(frozen=True)
class Pair:
    name: str
    title: str
    before: str
    after: str
    because: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.title}"


def pairs(file: Path) -> Iterator[Pair]:
    name = file.stem.replace("_", "-")
    for text in file.read_text().split("# title: ")[1:]:
        title, _, rest = text.partition("\n")
        lines = rest.splitlines()
        because = tuple(line.removeprefix("# because: ") for line in lines if "# because:" in line)
        rest = "\n".join(line for line in lines if "# because:" not in line)
        before, arrow, after = rest.partition("\n->\n")
        leaves = title.startswith("Leaves ") and title.endswith(" alone")
        assert bool(arrow) != leaves, f"{file.name}: {title}"
        yield Pair(name, title, before.strip(), (after if arrow else before).strip(), because)


def text_after(pair: Pair, registry: Registry) -> tuple[str, Outcome]:
    """What the pass makes of a pair's first text, proved on the way."""
    model = parse_model(pair.before, registry.ops)
    after, outcome = Runner(registry.ops).apply(model, registry.passes[pair.name]())
    if pair.before.startswith("model"):
        return print_model(after).strip(), outcome
    return "\n".join(map(print_block, after.blocks.values())).strip(), outcome


@pytest.mark.parametrize("pair", [pair for file in FILES for pair in pairs(file)], ids=str)
def test_pair(pair: Pair, registry: Registry) -> None:
    text, outcome = text_after(pair, registry)
    assert text == pair.after
    assert pair.title.startswith("Leaves ") == (pair.before == pair.after)
    assert (outcome.applications > 0) == (pair.before != pair.after)
    reasons = [refusal.reason for refusal in outcome.refusals]
    assert len(reasons) >= len(pair.because)
    for words in pair.because:
        assert any(words in reason for reason in reasons), reasons


def test_every_pass_of_ours_has_a_file(registry: Registry) -> None:
    ours = {n for n, p in registry.passes.items() if p.__module__.startswith("archsmith.")}
    assert {file.stem.replace("_", "-") for file in FILES if file.parent == HERE} == ours


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_shows_a_use_and_a_refusal(file: Path) -> None:
    found = list(pairs(file))
    assert any(pair.before != pair.after for pair in found)
    assert any(pair.before == pair.after for pair in found)
