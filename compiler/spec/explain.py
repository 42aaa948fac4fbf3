"""The pages of `archsmith explain`: one for each code of a diagnostic."""

from __future__ import annotations

from importlib.resources import files

from ..errors import ArchsmithError
from .diagnostics import accepted, quoted


def codes() -> tuple[str, ...]:
    """Return every code that has a page, in order."""
    pages = files(__package__).joinpath("explain").iterdir()
    return tuple(sorted(page.name.removesuffix(".md") for page in pages))


def explain(code: str) -> str:
    """Return the page of a code, in Markdown; raise ArchsmithError where there is none."""
    known = codes()
    if code.upper() not in known:
        help = accepted(code.upper(), known, "codes")
        raise ArchsmithError(f"no diagnostic has the code {quoted(code)}: {help}")
    page = files(__package__).joinpath("explain", f"{code.upper()}.md")
    return page.read_text(encoding="utf-8")
