"""Configurations as files: what is refused before a family sees it, and where."""

from __future__ import annotations

from pathlib import Path

import pytest
from archsmith.compiler.families.config import MOST_BYTES, parse_config, read_config
from archsmith.compiler.families.family import Family, family_of
from archsmith.compiler.families.page import name_of
from archsmith.compiler.spec.diagnostics import Span, SpecError
from models.tiny import FAMILIES

WRONG = [
    ("", "E0302", (1, 1), "not JSON"),
    ("{", "E0302", (1, 2), "not JSON"),
    ('{\n  "a": 1,\n  "b" 2\n}', "E0302", (3, 7), "expecting ':'"),
    ("[]", "E0302", (1, 1), "is an object"),
    ("3", "E0302", (1, 1), "is an object"),
    ('{"a": 1,\r\n "a": 2}', "E0302", (2, 2), "`a` is given twice"),
    ('{"a": [{"b": 1}, {"c": {}, "c": 2}]}', "E0302", (1, 28), "`c` is given twice"),
    ('{"\\u0061": 1, "a": 2}', "E0302", (1, 15), "`a` is given twice"),
    ('{"a": NaN}', "E0302", (1, 7), "`NaN`"),
    ('{"a": [1, -Infinity]}', "E0302", (1, 11), "`-Infinity`"),
    ('{"a": 1e999}', "E0302", (1, 7), "`1e999`"),
    ('{"a": ' + "9" * 5000 + "}", "E0302", (1, 7), "is not a number"),
    ("[" * 100_000, "E0302", (1, 1), "deep"),
    ('{"a": ' + "[" * 40 + "]" * 40 + "}", "E0302", (1, 38), "nested more than 32 deep"),
    ('{"a": "\n"}', "E0302", (1, 8), "not JSON"),
    ('{"a": __import__("os")}', "E0302", (1, 7), "not JSON"),
]


@pytest.mark.parametrize(("text", "code", "place", "message"), WRONG)
def test_what_is_not_a_configuration(
    text: str, code: str, place: tuple[int, int], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        parse_config(text)
    (found,) = caught.value.diagnostics
    assert found.code == code
    assert found.span is not None
    assert (found.span.line, found.span.column) == place
    assert message in found.message


def test_values_know_their_place() -> None:
    source = parse_config('{\n "a": {"b": [1,\n  {"c": "x, y: {"}]}, "d": true\n}')
    assert source.tree == {"a": {"b": [1, {"c": "x, y: {"}]}, "d": True}
    assert source.value(("a", "b", 1, "c")) == Span(3, 9, 9)
    assert source.key(("a", "b")) == Span(2, 8, 3)
    assert source.value(("d",)) == Span(3, 28, 4)
    assert source.value(("missing",)) == Span(1, 1, 1)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    big, binary = tmp_path / "big.json", tmp_path / "binary.json"
    big.write_text('{"a": "' + "x" * MOST_BYTES + '"}')
    binary.write_bytes(b'{\n"a": \xff}')
    for path in (tmp_path / "none.json", tmp_path, big, binary):
        with pytest.raises(SpecError) as caught:
            read_config(path)
        assert [found.code for found in caught.value.diagnostics] == ["E0301"]
    assert caught.value.diagnostics[0].span == Span(2, 6, 1)


def test_a_folder_stands_for_its_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'\xef\xbb\xbf{"model_type": "llama"}')
    assert read_config(tmp_path).tree == {"model_type": "llama"}


@pytest.mark.parametrize(
    ("text", "help"),
    [
        ("{}", f"supported are: {', '.join(FAMILIES)}"),
        ('{"model_type": "lama"}', "did you mean `llama`?"),
        ('{"model_type": ["llama"]}', "supported are: "),
        ('{"model_type": null}', "supported are: "),
    ],
)
def test_the_model_type(text: str, help: str, families: dict[str, type[Family]]) -> None:
    with pytest.raises(SpecError) as caught:
        family_of(parse_config(text), families)
    (found,) = caught.value.diagnostics
    assert found.code == "E0303"
    assert found.help is not None
    assert found.help.startswith(help)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/m/DeepSeek-V2-Lite/config.json", "deepseek-v2-lite"),
        ("/m/llama-3-8b.json", "llama-3-8b"),
        ("/m/3 Models: x.y/config.json", "models-x-y"),
        ("/123/config.json", None),
    ],
)
def test_the_name_of_a_spec(path: str, name: str | None) -> None:
    assert name_of(Path(path)) == name
