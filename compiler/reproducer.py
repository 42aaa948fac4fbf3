"""The reproducer: what a pass that failed leaves behind, and the command that repeats it."""

from __future__ import annotations

import platform
import shlex
import tempfile
import traceback
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from .errors import ArchsmithError
from .ir.parse import parse_model
from .ir.text import print_block, print_model
from .rewrite.order import written
from .rewrite.passes import Lossy
from .rewrite.pipeline import PassFailed, Runner

_QUICK = 5.0  # seconds for a pass to fail once more; one that hangs is left with the whole model

README = """\
# A pass that failed

{error}

    {command}

repeats it. `before.ir` is what the pass was given{after}; `error.txt` has the traceback.

| | |
|--|--|
| pass | {item}, defined in `{module}` |
| plugin | {plugin} |
| block, node | {block}, {node} |
| target | {target} |
| proof | {proof}, seed {seed} |
| versions | archsmith {archsmith}, NumPy {numpy}, Python {python} |
"""


def reproduce(failed: PassFailed, target: str, runner: Runner) -> str:
    """Write a folder from which a failure can be repeated; returns the command that does.

    It holds the failing block alone, where the pass fails alike on that.
    """
    folder = Path(tempfile.mkdtemp(prefix="archsmith-reproducer-"))
    before, after = folder / "before.ir", folder / "after.ir"
    item = written(failed.pass_)
    words = ["archsmith", "opt", str(before), "--passes", item]
    if isinstance(failed.pass_.effect, Lossy):  # a graph alone has no checkpoint to be judged on
        words = ["archsmith", "build", "SPEC", "--pipeline", item, "--weights", "CHECKPOINT"]
    words += ["--target", target] if target != "cpu" else []
    words += [] if runner.numeric else ["--verify-each", "structure"]
    given = _alone(failed, runner) or print_model(failed.before)
    before.write_text(given, encoding="utf-8")
    made = _made(failed, alone=not given.startswith("model"))
    if made:
        after.write_text(made, encoding="utf-8")
    trace = "".join(traceback.format_exception(failed))
    (folder / "error.txt").write_text(trace, encoding="utf-8")
    page = README.format(
        error=failed,
        command=shlex.join(words),
        after=", `after.ir` what it had made of it" if made else "",
        item=item,
        module=type(failed.pass_).__module__,
        plugin=failed.plugin or "none that is installed",
        block=failed.block or "unknown",
        node=f"%{failed.node}" if failed.node else "unknown",
        target=target,
        proof="numbers" if runner.numeric else "structure",
        seed=runner.seed,
        archsmith=version("archsmith"),
        numpy=version("numpy"),
        python=platform.python_version(),
    )
    (folder / "README.md").write_text(page, encoding="utf-8")
    return shlex.join(words)


def _alone(failed: PassFailed, runner: Runner) -> str | None:
    """The text of the failing block, if the pass fails on it as it did on the model."""
    if failed.block not in failed.before.blocks or isinstance(failed.pass_.effect, Lossy):
        return None
    text = print_block(failed.before.blocks[failed.block])
    try:
        replace(runner, seconds=_QUICK).apply(parse_model(text, runner.ops), failed.pass_)
    except PassFailed as again:
        return text if str(again) == str(failed) else None
    except ArchsmithError:  # the block is none without the others
        return None
    return None


def _made(failed: PassFailed, alone: bool) -> str:
    """What a pass had made, where it changed something that can still be printed."""
    if failed.after is None:
        return ""
    try:
        if alone:
            was, now = (print_block(m.blocks[failed.block]) for m in (failed.before, failed.after))
        else:
            was, now = print_model(failed.before), print_model(failed.after)
    except Exception:  # it may hold anything
        return ""
    return now if now != was else ""
