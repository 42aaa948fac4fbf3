"""Specs right and wrong: what is read, and what is said of what cannot be."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from archsmith.compiler.spec.diagnostics import Diagnostic, Listing, SpecError
from archsmith.compiler.spec.load import Kinds, check, from_tree, load, loads
from archsmith.compiler.spec.source import parse
from hypothesis import given, settings
from hypothesis import strategies as st

FAMILIES = ("deepseek_v3", "llama")

# A change of the good spec: what is replaced, by what; then of the one error that it makes: its
# code, its line, the text that the carets mark in it, and a fragment of the message.
WRONG = [
    ("archsmith: 1\n", "archsmith: 2\n", "E0204", 1, "2", "archsmith (2) must be at most 1"),
    ("archsmith: 1\n", "archsmith: true\n", "E0201", 1, "true", "must be an integer, not `true`"),
    ("archsmith: 1\n", "", "E0202", 1, "n", "the spec lacks `archsmith`"),
    ("tiny-model", "2fast", "E0206", 2, "2fast", "`2fast` is not a name"),
    ("tiny-model", "tiny model", "E0206", 2, "tiny model", "`tiny model` is not a name"),
    ("tiny-model", "lambda", "E0206", 2, "lambda", "`lambda` is a word of Python"),
    ("tiny-model", "modèle", "E0206", 2, "modèle", "is not a name"),
    (
        "tiny-model",
        "m" * 65,
        "E0206",
        2,
        "m" * 65,
        "is not a name",
    ),
    ("tiny-model", "", "E0201", 2, "name", "name must be text, not empty"),
    ("tiny-model", "[a]", "E0201", 2, "[", "name must be text, not a list"),
    ("bfloat16", "float31", "E0205", 3, "float31", "dtype cannot be the text `float31`"),
    ("bfloat16", "16", "E0205", 3, "16", "dtype cannot be `16`"),
    ("1000\n", "1e3\n", "E0201", 4, "1e3", "vocab_size must be an integer, not `1000.0`"),
    ("1000\n", "'1000'\n", "E0201", 4, "'1000'", "not the text `1000`"),
    ("size: 64", "size: 0", "E0204", 5, "0", "hidden_size (0) must be at least 1"),
    ("size: 64", "size: 4294967296", "E0204", 5, "4294967296", "must be at most"),
    (
        "size: 64",
        "size: 9999999999999999999999999999999",
        "E0108",
        5,
        "9999999999999999999999999999999",
        "no number",
    ),
    ("max_pos", "hidden_sise: 64\nmax_pos", "E0203", 6, "hidden_sise", "no field `hidden_sise`"),
    ("positions: 4096", "positions: .inf", "E0108", 6, ".inf", "`.inf` is no number"),
    ("repeat: 2", "repeat: -1", "E0204", 8, "-1", "repeat (-1) must be at least 1"),
    ("repeat: 2", "repeat: 99999", "E0204", 8, "-", "100004 layers are too many"),
    ("block: dense", "block: dence", "E0207", 8, "dence", "no block is called `dence`"),
    ("[sparse, local]", "[sparse, locale]", "E0207", 9, "locale", "no block is called `locale`"),
    ("[sparse, local]", "[]", "E0204", 9, "[", "block must have an entry"),
    ("use: mlp", "use: mpl", "E0207", 11, "mpl", "no part is called `mpl`"),
    ("  dense:", "  embed: [{use: mlp}]\n  dense:", "E0206", 11, "embed", "every model has"),
    ("{norm: rms, use: latent}", "{nrom: rms, use: latent}", "E0203", 11, "nrom", "`nrom`"),
    ("post_norm: rms", "post_norm: mlp", "E0209", 11, "mlp", "the part `mlp` is not a norm"),
    ("kind: rms_norm", "kind: rms_nrom", "E0208", 15, "rms_nrom", "unknown kind `rms_nrom`"),
    ("kind: rms_norm", "kind: [x]", "E0208", 15, "[", "unknown kind"),
    ("kind: rms_norm, ", "", "E0202", 15, "{", "the part lacks `kind`"),
    ("eps: 1.0e-6", "eps: 0", "E0204", 15, "0", "eps (0) must be above 0"),
    (", eps: 1.0e-6", "", "E0202", 15, "{", "the part `rms` lacks `eps`"),
    ("head_dim: 8\n", "head_dim: 7\n", "E0212", 21, "7", "qk_rope_head_dim (7) is odd"),
    ("    norm: rms\n", "", "E0202", 17, "k", "the part `latent` lacks `norm`"),
    ("kind: yarn", "kind: yran", "E0205", 24, "yran", "kind cannot be the text `yran`"),
    ("kind: yarn, ", "", "E0202", 24, "{", "scaling lacks `kind`"),
    ("factor: 40, ", "", "E0202", 24, "{", "scaling lacks `factor`"),
    ("factor: 40", "factor: true", "E0201", 24, "true", "must be a number, not `true`"),
    ("heads: 6", "heads: 5", "E0211", 25, "5", "heads (5) is not a multiple of kv_heads (2)"),
    ("dim: 8,", "dim: 18,", "E0210", 25, "18", "rope.dim (18) exceeds head_dim (16)"),
    ("interleaved: false", "interleaved: no", "E0201", 25, "no", "must be true or false"),
    ("176}", "176, bias: 1}", "E0201", 26, "1", "bias must be true or false, not `1`"),
    ("176}", "176, activation: tanh}", "E0205", 26, "tanh", "cannot be the text `tanh`"),
    ("176}", "{}}", "E0201", 26, "{", "width must be an integer, not a map"),
    ("top_k: 6", "top_k: 65", "E0210", 27, "65", "top_k (65) exceeds experts (64)"),
    ("top_k: 6", "top_k: 25", "E0210", 27, "25", "top_k (25) exceeds experts * router"),
    ("top_groups: 3", "top_groups: 9", "E0210", 27, "9", "exceeds router.groups (8)"),
    ("groups: 8", "groups: 5", "E0211", 27, "64", "experts (64) is not a multiple of"),
    (
        "groups: 8, top_groups: 3",
        "groups: 64, top_groups: 8",
        "E0211",
        27,
        "64",
        "experts (64) is less than 2 times",
    ),
    ("shared: 2", "shared: -1", "E0204", 27, "-1", "shared (-1) must be at least 0"),
    ("final_norm: rms", "final_norm: experts", "E0209", 28, "experts", "`experts` is not a norm"),
    ("{tied: false}", "{}", "E0202", 29, "{", "head lacks `tied`"),
    ("{tied: false}", "no", "E0201", 29, "no", "head must be a map, not the text `no`"),
    ("head: {", "checkpoint: lama\nhead: {", "E0216", 29, "lama", "no family is called `lama`"),
    ("head: {", "pipeline: []\nhead: {", "E0204", 29, "[", "pipeline must have an entry"),
    ("head: {", "head: {tied: true}\nhead: {", "E0105", 30, "head", "`head` is written twice"),
    ("head: {", "<<: {a: 1}\nhead: {", "E0106", 29, "<<", "merge key"),
    ("head: {", "7: 1\nhead: {", "E0107", 29, "7", "a key must be text"),
    ("head: {", "head: !!map {", "E0106", 29, "!", "the tag `tag:yaml.org,2002:map`"),
    ("archsmith: 1\n", "%YAML 1.1\n---\narchsmith: 1\n", "E0106", 2, "-", "a directive"),
    ("  mlp:", "  RMS: {kind: rms_norm, eps: 1}\n  mlp:", "E0214", 26, "RMS", "the same name"),
    ("  mlp:", "  it's: {kind: swiglu, width: 1}\n  mlp:", "E0206", 26, "it's", "is not a name"),
    ("  mlp:", "  class: {kind: swiglu, width: 1}\n  mlp:", "E0206", 26, "class", "word of Python"),
    ("{tied: false}\n", "{tied: false}\n---\n{}\n", "E0106", 30, "-", "a second document"),
    ("{tied: false}", "{tied: false", "E0104", 30, "", "not YAML"),
    ("use: mlp", "use: *mlp", "E0104", 11, "*mlp", "the alias `*mlp` has no anchor"),
    ("head: {", "head:\t\n\t{", "E0104", 29, "\t", "not YAML"),
    ("head: {", "head: \x1b[31m{", "E0102", 29, "\x1b", "U+001B"),
    ("head: {", "head: \u2028{", "E0102", 29, "\u2028", "U+2028"),
    ("head: {", "head: \u202e{", "E0102", 29, "\u202e", "U+202E"),
]


def found_in(text: str, kinds: Kinds) -> tuple[Diagnostic, ...]:
    """Return the diagnostics of a spec, however far it can be read."""
    try:
        return check(parse(text, "spec.yaml"), kinds, FAMILIES)[1]
    except SpecError as error:
        return error.diagnostics


@pytest.mark.parametrize(("old", "new", "code", "line", "marked", "fragment"), WRONG)
def test_one_mistake_is_one_located_error(
    good: str,
    kinds: Kinds,
    old: str,
    new: str,
    code: str,
    line: int,
    marked: str,
    fragment: str,
) -> None:
    assert old in good
    text = good.replace(old, new, 1)
    errors = [found for found in found_in(text, kinds) if found.severity == "error"]
    assert [error.code for error in errors] == [code], errors
    span = errors[0].span
    assert span is not None
    start = span.column - 1
    shown = Listing("", text).line(span.line)[start : start + span.length]
    assert (span.line, shown) == (line, marked)
    assert fragment in errors[0].message


def test_the_good_spec_has_nothing_to_say(good: str, kinds: Kinds) -> None:
    spec, found = check(parse(good, "spec.yaml"), kinds)
    assert found == ()
    assert spec is not None
    assert spec.layer_count == 7
    assert spec.schedule == (
        ("dense", 2),
        ("sparse", 1),
        ("local", 1),
        ("sparse", 1),
        ("local", 1),
        ("sparse", 1),
    )
    assert spec.blocks["sparse"][1].use == ("experts", "mlp")
    assert spec.part("attention").sizes() == {
        "heads": 6,
        "kv_heads": 2,
        "head_dim": 16,
        "rope.dim": 8,
    }
    assert from_tree(parse(good, "").tree, kinds) == spec


def test_the_shape_of_a_report(good: str, kinds: Kinds) -> None:
    line = "  experts: {kind: moe, experts: 64, top_k: 65, width: 1408, shared: 2}"
    text = re.sub(r"  experts: \{.*", line, good)
    with pytest.raises(SpecError) as caught:
        loads(text, "spec.yaml", kinds)
    report = [part for part in str(caught.value).split("\n\n") if "E0210" in part]
    assert report == [
        "error[E0210]: top_k (65) exceeds experts (64)\n"
        "  --> spec.yaml:27:44\n"
        "   |\n"
        f"27 | {line}\n"
        "   |                                            ^^\n"
        "   = help: top_k is how many experts each token uses; at most 64 here"
    ]


def test_every_mistake_is_told_at_once(good: str, kinds: Kinds) -> None:
    text = good
    for old, new in [
        ("bfloat16", "float31"),
        ("use: mlp", "use: mpl"),
        ("heads: 6", "heads: 5"),
        ("top_k: 6, ", "top_k: 65, topk: 3, "),
        ("kind: rms_norm", "kind: rms_nrom"),
        ("{tied: false}", "{tied: false, tied: true}"),
    ]:
        text = text.replace(old, new, 1)
    codes = [found.code for found in found_in(text, kinds)]
    assert codes == ["E0205", "E0207", "E0208", "E0211", "E0210", "E0203", "E0105"]


@pytest.mark.parametrize(
    ("old", "new", "meant"),
    [
        ("hidden_size", "hiden_size", "hidden_size"),
        ("kind: swiglu", "kind: swigul", "swiglu"),
        ("block: dense", "block: dens", "dense"),
        ("use: mlp", "use: mpl", "mlp"),
        ("final_norm: rms", "final_norm: rns", "rms"),
        ("score: sigmoid", "score: sigmod", "sigmoid"),
        ("top_k: 6", "topk: 6", "top_k"),
        ("theta", "tehta", "theta"),
        ("original_max_positions", "orignal_max_positions", "original_max_positions"),
        ("head: {", "checkpoint: deepseek-v3\nhead: {", "deepseek_v3"),
    ],
)
def test_a_slip_is_guessed(good: str, kinds: Kinds, old: str, new: str, meant: str) -> None:
    found = found_in(good.replace(old, new, 1), kinds)
    assert f"did you mean `{meant}`?" in [f.help for f in found]


def test_what_is_not_used_is_a_warning(good: str, kinds: Kinds) -> None:
    text = good.replace("  mlp:", "  wide: {kind: swiglu, width: 8}\n  mlp:")
    text = text.replace("  local:", "  spare: [{use: mlp}]\n  local:")
    spec, found = check(parse(text, "spec.yaml"), kinds)
    assert spec is not None
    assert [(f.code, f.severity, f.span.line if f.span else 0) for f in found] == [
        ("E0215", "warning", 13),
        ("E0215", "warning", 27),
    ]


@pytest.mark.parametrize("text", ["", "# nothing\n", "3", "[1, 2]", "'a'", "null", "---\n"])
def test_what_is_no_map_is_no_spec(text: str, kinds: Kinds) -> None:
    (found,) = found_in(text, kinds)
    assert found.code == "E0201"
    assert "a spec must be a map" in found.message


HOSTILE = [
    "__import__('os')",
    "a\u2028b",
    "a\nb",
    "a\rimport os",
    "a\x85b",
    '"""',
    "{{ 7 * 7 }}",
    "{message}",
    "../../etc",
    "a\x00b",
    "\x1b[2J",
    "rms\n",
    " rms",
    "\uff52ms",
    "",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_no_string_field_takes_anything_but_a_word(good: str, kinds: Kinds, value: str) -> None:
    quoted = '"' + "".join(f"\\U{ord(c):08x}" for c in value) + '"'
    places = list(re.finditer(r"(?<=[:\[,] )[A-Za-z_][\w-]*(?=[,}\]\n])|^  \w+(?=:)", good, re.M))
    strings = [place for place in places if place.group() not in ("true", "false")]
    assert len(strings) > 35
    for place in strings:
        indent = "  " if place.group().startswith("  ") else ""
        text = good[: place.start()] + indent + quoted + good[place.end() :]
        with pytest.raises(SpecError) as caught:
            loads(text, "spec.yaml", kinds, FAMILIES)
        shown = str(caught.value)
        assert all(found.span for found in caught.value.diagnostics)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", shown)


def test_a_file_that_cannot_be_read(tmp_path: Path, kinds: Kinds) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path, tmp_path / ("x" * 300), "a\0b"):
        with pytest.raises(SpecError) as caught:
            load(path, kinds)
        assert [found.code for found in caught.value.diagnostics] == ["E0101"]
        assert "-->" in str(caught.value)


def test_layers_by_the_ten_thousand_stay_cheap(good: str, kinds: Kinds) -> None:
    spec = loads(good.replace("repeat: 2", "repeat: 90000"), "spec.yaml", kinds)
    assert spec.layer_count == 90005
    assert spec.schedule[0] == ("dense", 90000)


WORDS = ["[", "]", "{", "}", ": ", ", ", "\n", "- ", "&a ", "*a", "!!x ", "'", '"', "|", "? ", "#"]
WORDS += ["0", "-1", "1e999", "null", "true", "~", "kind", "parts", "\u2028", "\x00", "\ud800", "é"]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), changes=st.integers(1, 6))
def test_a_mutated_spec_raises_nothing_but_a_spec_error(
    good: str, kinds: Kinds, seed: int, changes: int
) -> None:
    pick = random.Random(seed)
    text = good
    for _ in range(changes):
        at, other = pick.randrange(len(text)), pick.randrange(len(text))
        cut, span = pick.choice([0, 0, 1, 5, 40]), pick.choice([0, 3, 30])
        put = pick.choice([*WORDS, text[other : other + span]])
        text = text[:at] + put + text[at + cut :]
    for found in found_in(text, kinds):
        assert found.span is not None
        assert re.fullmatch(r"E0[12]\d\d", found.code)
