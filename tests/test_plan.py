"""The command that says what a build would cost: its table, its comparison, and its mistakes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from archsmith.compiler.cli import main
from click.testing import CliRunner, Result

EXAMPLES = Path(__file__).parents[1] / "examples"
LITE, V2, LLAMA = "deepseek-v2-lite.yaml", "deepseek-v2.yaml", "tiny-llama.yaml"


def plan(*arguments: str) -> Result:
    words = [str(EXAMPLES / a) if a.endswith(".yaml") else a for a in arguments]
    return CliRunner().invoke(main, ["plan", *words])


def read(*arguments: str) -> list[dict[str, Any]]:
    result = plan(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def row(result: Result, label: str) -> list[str]:
    """The cells of a line of the table, which stands there once."""
    assert result.exit_code == 0, result.stderr
    (line,) = (line for line in result.stdout.splitlines() if line.startswith(f"│ {label} "))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_one_spec_is_shown_kernel_by_kernel() -> None:
    result = plan(LITE, "--target", "h200")
    assert row(result, "parameters") == ["parameters", "15.71 G"]
    assert row(result, "active for a token")[1] == "2.66 G"
    assert row(result, "cache a token")[1] == "31.10 kB"
    assert row(result, "cache a token, at best")[1] == "31.10 kB"
    assert row(result, "weights and cache fit")[1] == "yes, of 141.00 GB"
    for phase in ("prefill: 1 row, 4,096 tokens", "decode: 1 row, 1 token at 4,096"):
        assert phase in result.stdout
    tables = result.stdout.split("decode: 1 row")[0], result.stdout.split("decode: 1 row")[1]
    for table in tables:
        attends = [line for line in table.splitlines() if "= attend" in line]
        assert [line.split("│")[4].strip() for line in attends] == ["1", "26"]
    assert "…" not in result.stdout  # nothing is cut off
    assert result.stderr == ""


def test_the_table_and_the_data_say_the_same() -> None:
    (data,) = read(LITE, "--target", "h200", "--batch", "8", "--context", "2000")
    result = plan(LITE, "--target", "h200", "--batch", "8", "--context", "2000")
    decode = data["phases"]["decode"]
    assert row(result, "decode: launches")[1] == f"{decode['launches']:,}"
    assert row(result, "decode: tokens/s, at most")[1] == f"{decode['tokens_per_second']:,.0f}"
    assert row(result, "rows")[1] == "8"
    assert row(result, "tokens of context in a row")[1] == "2,000"
    assert decode["tokens"] == 8
    assert data["phases"]["prefill"]["tokens"] == 16000
    total = sum(op["times"] * op["seconds"] for op in decode["ops"])
    assert total == pytest.approx(decode["seconds"], rel=1e-9)
    assert sum(decode["seconds_by_bound"].values()) == pytest.approx(total, rel=1e-9)
    first, *_ = decode["seconds_by_bound"].items()
    part = 100 * first[1] / total
    assert row(result, "decode: bound by")[1] == f"{first[0]} {part:.0f} %"
    # Other kernels, and why they are not taken.
    assert any(op["refusals"] for op in decode["ops"])


def test_two_specs_stand_side_by_side() -> None:
    pair = ("deepseek-67b.yaml", V2, "--target", "h200")
    assert row(plan(*pair), "cache a token, at best")[3] == "-82.2 %"
    narrow = plan(*pair, "--cache-bits", "16", "--cache-bits", "6")
    assert row(narrow, "cache a token, at best")[3] == "-93.3 %"
    assert row(narrow, "parameters")[3] == "x 3.50"
    assert row(narrow, "rows") == ["rows", "1", "1", ""]  # the same: no ratio
    assert "prefill: 1 row" not in narrow.stdout
    both = read(*pair, "--cache-bits", "8")
    assert [f["cache_bytes_per_token_at_best"] for f in both] == [95 * 2048, 60 * 576]


def test_two_targets_stand_side_by_side() -> None:
    found = plan(LITE, "--target", "a100", "--target", "b200")
    assert row(found, "parameters") == ["parameters", "15.71 G", "15.71 G", ""]
    assert row(found, "weights and cache fit")[1:] == ["yes, of 80.00 GB", "yes, of 180.00 GB", ""]
    rates = [
        f["phases"]["decode"]["tokens_per_second"]
        for f in read(LITE, "--target", "a100", "--target", "b200")
    ]
    assert row(found, "decode: tokens/s, at most")[3] == f"x {rates[1] / rates[0]:.2f}"
    assert [f["target"] for f in read(LITE, LLAMA, "--target", "a100", "--target", "b200")] == [
        *("a100", "b200") * 2
    ]


def test_another_pipeline_takes_other_kernels() -> None:
    launches = [
        read(LLAMA, "--target", "h200", "--pipeline", name)[0]["phases"]["decode"]["launches"]
        for name in ("O0", "O1")
    ]
    assert launches[1] < launches[0]


def test_a_target_without_figures_says_so() -> None:
    result = plan(LLAMA)
    assert "The target cpu states no figures: nothing is said of time." in result.stdout
    assert row(result, "decode: tokens/s, at most")[1] == "-"
    assert row(result, "weights and cache fit")[1] == "-"
    (data,) = read(LLAMA)
    assert (data["target"], data["fits"]) == ("cpu", None)
    assert data["phases"]["prefill"]["seconds"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((LLAMA, "--target", "h2000"), 1, "there is no target `h2000`"),
        ((LLAMA, "--context", "1000000"), 1, "--context 1000000 is more than tiny-llama takes: "),
        ((LLAMA, LITE, LITE, *("--cache-bits", "8") * 2), 1, "given 2 times for 3 specs; give it"),
        ((LLAMA, "--batch", "0"), 2, "0 is not in the range"),
        ((), 2, "Missing argument 'SPEC...'"),
        (("absent.yaml",), 1, "absent.yaml"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], code: int, said: str) -> None:
    result = plan(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
    assert not re.search(r"Traceback", result.stderr)


def test_it_needs_no_torch() -> None:
    script = (
        "import sys; from archsmith.compiler.cli import main\n"
        f"main(['plan', {str(EXAMPLES / LITE)!r}, '--target', 'h200'], standalone_mode=False)\n"
        "assert not {'torch', 'triton'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_the_page_explains_every_line_and_shows_a_true_one() -> None:
    page = (EXAMPLES.parent / "docs" / "plan.md").read_text(encoding="utf-8")
    explained = "\n".join(re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE))
    result = plan(LITE, "--target", "h200")
    summary = result.stdout.partition("prefill: 1 row")[0]
    labels = re.findall(r"^│ (\S.*?) +│", summary, re.MULTILINE)
    assert len(labels) >= 17
    assert all(f"`{label}`" in explained for label in labels)
    # What no new pass and no new kernel changes, it shows as it is.
    lines = [line for line in summary.splitlines() if line.startswith(("┏", "┃", "┡", "└"))]
    lines += [
        line for line in summary.splitlines() if re.match("│ (param|active|weights|cache a)", line)
    ]
    assert len(lines) == 11
    assert all(line in page for line in lines)


def test_the_commands_of_the_page_run() -> None:
    page = (EXAMPLES.parent / "docs" / "plan.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    archsmith plan (.*)$", page, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        result = plan(*(word.removeprefix("examples/") for word in shlex.split(command)))
        assert result.exit_code == 0, command
