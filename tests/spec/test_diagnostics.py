"""How a mistake is shown."""

from __future__ import annotations

from archsmith.compiler.spec.diagnostics import (
    Diagnostic,
    Listing,
    Span,
    SpecError,
    accepted,
    quoted,
    render,
)


def test_the_gutter_is_as_wide_as_the_line_number() -> None:
    listing = Listing("a.yaml", "\n" * 99 + "a: b")
    found = Diagnostic("E0000", "wrong", Span(100, 4), "be right")
    assert render(listing, [found]) == (
        "error[E0000]: wrong\n"
        "   --> a.yaml:100:4\n"
        "    |\n"
        "100 | a: b\n"
        "    |    ^\n"
        "    = help: be right"
    )


def test_mistakes_stand_in_the_order_of_the_file() -> None:
    listing = Listing("a.yaml", "a: b\nc: d")
    error = SpecError(
        listing,
        [
            Diagnostic("E0002", "second", Span(2, 4), severity="warning"),
            Diagnostic("E0001", "first", Span(1, 1)),
            Diagnostic("E0000", "nowhere"),
        ],
    )
    assert [found.code for found in error.diagnostics] == ["E0000", "E0001", "E0002"]
    assert (
        error.render()
        == str(error)
        == (
            "error[E0000]: nowhere\n"
            " --> a.yaml\n"
            "\n"
            "error[E0001]: first\n"
            " --> a.yaml:1:1\n"
            "  |\n"
            "1 | a: b\n"
            "  | ^\n"
            "\n"
            "warning[E0002]: second\n"
            " --> a.yaml:2:4\n"
            "  |\n"
            "2 | c: d\n"
            "  |    ^"
        )
    )


def test_control_characters_are_spelled_out_and_carets_follow() -> None:
    listing = Listing("\x1b[2J.yaml", "é\t世\x1b\u202ex: 1")
    text = render(listing, [Diagnostic("E0000", "a\nb\u2028", Span(1, 6, 4), "\x07")])
    assert text == (
        "error[E0000]: a\\nb\\u2028\n"
        " --> \\x1b[2J.yaml:1:6\n"
        "  |\n"
        "1 | é 世\\x1b\\u202ex: 1\n"
        "  |               ^^^^\n"
        "  = help: \\x07"
    )


def test_a_long_line_is_clipped_around_the_carets() -> None:
    listing = Listing("a.yaml", "x" * 300 + "HERE" + "y" * 300)
    shown, carets = render(listing, [Diagnostic("E0000", "w", Span(1, 301, 4))]).split("\n")[3:5]
    assert len(shown) < 120
    start = carets.index("^")
    assert shown[start : start + carets.count("^")] == "HERE"


def test_carets_past_the_end_of_a_line_or_file() -> None:
    for span in (Span(1, 9), Span(7, 1), Span(1, 3, 50)):
        assert render(Listing("a", "abc"), [Diagnostic("E0000", "w", span)]).count("^") == 1


def test_values_and_choices_in_messages() -> None:
    assert quoted("x" * 99) == "`" + "x" * 57 + "...`"
    assert (quoted(True), quoted(None), quoted("a\n")) == ("`true`", "`null`", "`a\\n`")
    assert accepted("swigul", ["swiglu", "moe"], "kinds") == "did you mean `swiglu`?"
    assert accepted("zzz", ["swiglu", "moe"], "kinds") == "kinds: moe, swiglu"
    assert accepted("zzz", [], "kinds") == "there are no kinds"
    many = accepted(3, [f"k{n:02}" for n in range(30)], "kinds")
    assert many.endswith("k19, ...")
