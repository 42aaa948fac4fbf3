"""The reproducer: what a pass that failed leaves behind, and the command that repeats it."""

from __future__ import annotations

import platform
import shlex
import tempfile
import traceback
from importlib.metadata import version
from pathlib import Path

from .ir.text import print_model
from .rewrite.order import written
from .rewrite.pipeline import PassFailed

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


def reproduce(failed: PassFailed, target: str, seed: int, *, numeric: bool) -> str:
    """Write a folder from which a failure can be repeated; returns the command that does."""
    folder = Path(tempfile.mkdtemp(prefix="archsmith-reproducer-"))
    before, after = folder / "before.ir", folder / "after.ir"
    item = written(failed.pass_)
    words = ["archsmith", "opt", str(before), "--passes", item]
    words += ["--target", target] if target != "cpu" else []
    words += [] if numeric else ["--verify-each", "structure"]
    before.write_text(print_model(failed.before), encoding="utf-8")
    made = _text(failed)
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
        proof="numbers" if numeric else "structure",
        seed=seed,
        archsmith=version("archsmith"),
        numpy=version("numpy"),
        python=platform.python_version(),
    )
    (folder / "README.md").write_text(page, encoding="utf-8")
    return shlex.join(words)


def _text(failed: PassFailed) -> str:
    """What a pass had made, where it changed something that can still be printed."""
    try:
        made = print_model(failed.after) if failed.after is not None else ""
    except Exception:  # it may hold anything
        return ""
    return made if made != print_model(failed.before) else ""
