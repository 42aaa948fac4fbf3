"""The pages of `archsmith explain`: one beside this file for each code of a diagnostic."""

from __future__ import annotations

from importlib.resources import files

from ...errors import ArchsmithError
from ..diagnostics import accepted, quoted


def codes() -> tuple[str, ...]:
    """Return every code that has a page, in order."""
    names = sorted(page.name for page in files(__package__).iterdir())
    return tuple(name.removesuffix(".md") for name in names if name.endswith(".md"))


def explain(code: str) -> str:
    """Return the page of a code, in Markdown; raise ArchsmithError where there is none."""
    known = codes()
    if code.upper() not in known:
        help = accepted(code.upper(), known, "codes")
        others = "`explain pass:NAME` is about a pass, `explain SPEC --pass NAME` about a spec"
        raise ArchsmithError(
            f"no diagnostic has the code {quoted(code)}: {help}\n  = help: {others}"
        )
    return files(__package__).joinpath(f"{code.upper()}.md").read_text(encoding="utf-8")
