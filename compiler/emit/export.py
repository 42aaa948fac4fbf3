"""Exporting: a package's prefill, traced and lowered to another form in a child process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ArchsmithError, EnvironmentMissing, ExportError
from ..schedule.plan import Plan
from .package import Facts, emit

PACKAGE = "exported"
NOTES = {
    "tokens": "padded on the right with any ids of the vocabulary",
    "lengths": "how many tokens of each row are no padding, at least 1",
    "logits": "after the last token of each row",
}


@dataclass(frozen=True)
class Call:
    """The one call that the exported function is for: all its shapes are fixed."""

    batch: int = 1
    tokens: int = 16
    dtype: str | None = None
    """None: the spec's."""
    weights: Path | None = None
    """A checkpoint whose weights become constants; None: weights are arguments."""


@dataclass(frozen=True)
class Exported:
    """The text of a module, and what its function takes and gives."""

    text: str
    signature: Mapping[str, Any]


def lower(plan: Plan, templates: Mapping[str, str], facts: Facts, call: Call) -> Exported:
    """Lower the prefill of a plan's package to MLIR, linalg on tensors.

    Raises `ExportError` where torch.export or torch-mlir cannot, `EnvironmentMissing` where one of
    them is not installed, `ArchsmithError` for a checkpoint that is not the model's.
    """
    if call.batch < 1 or not 1 <= call.tokens <= facts.max_positions:
        raise ArchsmithError(
            f"a batch of {call.batch} rows of {call.tokens} tokens cannot be exported"
            f"\n  = help: one row or more, of 1 to {facts.max_positions} tokens"
        )
    folder = Path(tempfile.mkdtemp(prefix="archsmith-reproducer-"))
    try:
        exported = _lower(plan, templates, facts, call, folder)
    except ExportError as error:
        error.add_note(f"in {folder}, `python export.py {PACKAGE}` repeats it; graph.txt: the ops")
        raise
    except BaseException:
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)
    return exported


def _lower(
    plan: Plan, templates: Mapping[str, str], facts: Facts, call: Call, folder: Path
) -> Exported:
    for path, text in emit(plan, templates, facts).items():
        file = folder / PACKAGE / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    weights = None if call.weights is None else str(call.weights.resolve())
    given = {"batch": call.batch, "tokens": call.tokens, "dtype": call.dtype, "weights": weights}
    (folder / "call.json").write_text(json.dumps(given))
    script = folder / "export.py"
    script.write_text(templates["export.py"], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), PACKAGE],
        cwd=folder,
        capture_output=True,
        text=True,
        # What torch-mlir leaves of a failure goes to the same folder.
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(folder)},
        check=False,
    )
    if done.returncode != 0:
        stage = folder / "stage.txt"
        raise _failure(done.returncode, stage.read_text() if stage.exists() else "", done.stderr)
    signature = json.loads((folder / "signature.json").read_text())
    text = (folder / "model.mlir").read_text(encoding="utf-8")
    return Exported(_header(plan, facts, signature) + text, signature)


def _failure(code: int, stage: str, said: str) -> ArchsmithError:
    if code == 4:
        return EnvironmentMissing(
            f"exporting needs torch and torch-mlir: {said.strip()}"
            "\n  = help: `pip install archsmith[mlir]` has both"
        )
    if code < 0:
        return ExportError(f"{stage} was ended by {signal.Signals(-code).name}")
    why = _cause(said)
    if stage == "checkpoint":
        return ArchsmithError(why)
    return ExportError(f"{stage} cannot lower the prefill: {why}")


def _cause(said: str) -> str:
    """What a child says went wrong, of all that it says; and where in the package."""
    _, _, last = said.rpartition("Traceback (most recent call last):\n")
    raised = re.search(r"^\S.*", last, re.MULTILINE)
    diagnosed = re.search(r"(?<![\w.])error: .*", said)  # MLIR itself prints, or is quoted
    found = diagnosed or raised
    cause = found[0].strip() if found else "it said nothing"
    where = re.findall(rf"{PACKAGE}/([\w/]+\.py)(?:\", line |\":)(\d+)", said)
    return cause + "".join(f"\n  in {file}, line {line}" for file, line in where[-1:])


def _header(plan: Plan, facts: Facts, signature: Mapping[str, Any]) -> str:
    """The comment on top, that says what each argument and each result is."""
    lines = [
        f"{plan.model.name} in {facts.target}, written by archsmith {facts.version} with pipeline"
        f" {facts.pipeline}.",
        "",
        f"{signature['function']}: the tokens of fresh contexts -> what follows each, and the rows"
        " of its cache.",
    ]
    for kind, prefix in (("arguments", "%arg"), ("results", "#")):
        lines += ["", f"{kind}:"]
        for i, value in enumerate(signature[kind]):
            note = f"  ({NOTES[value['name']]})" if value["name"] in NOTES else ""
            lines.append(f"  {prefix}{i} {value['name']}: {value['dtype']} {value['shape']}{note}")
    return "".join(f"// {line}".rstrip() + "\n" for line in lines)
