"""Every code has a page, and what a page shows does what it says."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest
from archsmith.compiler.errors import ArchsmithError
from archsmith.compiler.spec.diagnostics import SpecError
from archsmith.compiler.spec.explain import codes, explain
from archsmith.compiler.spec.load import Kinds, check
from archsmith.compiler.spec.source import parse

SPEC_CODES = [code for code in codes() if code < "E0300"]


def test_the_codes_and_the_pages_are_the_same() -> None:
    root = Path(str(files("archsmith.compiler")))
    used = {
        code
        for file in root.rglob("*.py")
        for code in re.findall(r"\bE0\d{3}\b", file.read_text(encoding="utf-8"))
    }
    assert used == set(codes())


@pytest.mark.parametrize("code", codes())
def test_a_page_has_a_title_a_trigger_and_a_way_out(code: str) -> None:
    page = explain(code)
    assert re.match(rf"# {code}: [^\n]+[^.\n]\n\n\S", page)
    if code not in ("E0101", "E0301"):  # of a file that cannot be read there is nothing to show
        around = re.split(r"```(?:yaml|json)\n.*?```\n", page, flags=re.S)
        assert len(around) == 2
        assert all(text.strip() for text in around)


@pytest.mark.parametrize("code", SPEC_CODES)
def test_a_pages_trigger_triggers_its_code(code: str, kinds: Kinds, tmp_path: Path) -> None:
    triggers = re.findall(r"```yaml\n(.*?)```", explain(code), flags=re.S)
    if not triggers:
        assert code == "E0101"
        return
    try:
        _, found = check(parse(triggers[0], "spec.yaml"), kinds, ["llama"], ["fuse-gate-up"])
    except SpecError as error:
        found = error.diagnostics
    assert [diagnostic.code for diagnostic in found] == [code]


def test_an_unknown_code_is_an_error() -> None:
    assert explain("e0210") == explain("E0210")
    for code in ("E9999", "../../x", ""):
        with pytest.raises(ArchsmithError, match="no diagnostic has the code"):
            explain(code)
