"""The layer that predicts one token further: imported where it is asked for, and described."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from archsmith.compiler.components.component import Component
from archsmith.compiler.families.config import parse_config
from archsmith.compiler.families.family import Family
from archsmith.compiler.spec.diagnostics import SpecError
from archsmith.compiler.spec.load import from_tree
from models.tiny import base

CONFIGS = Path(__file__).parents[2] / "examples" / "configs"


@pytest.mark.parametrize("name", ["deepseek_v3", "glm4_moe"])
@pytest.mark.parametrize("dense", [1, 2, 9])
def test_what_is_read_is_described(
    name: str,
    dense: int,
    families: Mapping[str, type[Family]],
    kinds: Mapping[str, type[Component]],
) -> None:
    family = families[name]()
    fields = base(name) | {"first_k_dense_replace": dense, "num_nextn_predict_layers": 1}
    tree, _ = family.read(fields, mtp=True)
    assert tree["mtp"] == {"block": "sparse", "norm": "rms"}
    assert "sparse" in tree["blocks"]  # even where no layer of the schedule is
    described = family.describe(tree)
    assert described["num_nextn_predict_layers"] == 1
    assert family.read(described, mtp=True)[0] == tree
    assert family.describe(from_tree(tree, kinds)) == described
    # A checkpoint shows it by its tensors, whatever its configuration says.
    assert "num_nextn_predict_layers" not in family.meaning(tree)
    assert "mtp" not in family.read(fields)[0]


@pytest.mark.parametrize(
    ("name", "fields", "place", "message"),
    [
        ("deepseek_v3", {"num_nextn_predict_layers": 2}, 2, "num_nextn_predict_layers `2` is not"),
        ("deepseek_v3", {"num_nextn_predict_layers": 0}, 2, "num_nextn_predict_layers `0` is not"),
        ("deepseek_v3", {"num_mtp_layers": True}, 2, "num_mtp_layers `true` is not"),
        ("deepseek_v3", {}, 3, "num_nextn_predict_layers `0` is not supported with `--mtp`"),
        ("llama", {}, 3, "its layers that predict further tokens, if it has any, are not"),
    ],
)
def test_a_mistake_is_named_where_it_is(
    name: str,
    fields: dict[str, Any],
    place: int,
    message: str,
    families: Mapping[str, type[Family]],
) -> None:
    rest = {k: v for k, v in base(name).items() if "nextn" not in k and k != "model_type"}
    first = fields or {"vocab_size": rest.pop("vocab_size")}
    config = parse_config(json.dumps({**first, "model_type": name, **rest}, indent=1))
    with pytest.raises(SpecError) as caught:
        families[name]().read(config, mtp=True)
    (found,) = caught.value.diagnostics
    assert found.code == "E0307"
    assert message in found.message
    assert found.span is not None
    assert found.span.line == place


def test_the_command_takes_the_flag(tmp_path: Path) -> None:
    page = tmp_path / "tiny.yaml"
    command = [sys.executable, "-m", "archsmith.compiler", "import", "-o", str(page), "--mtp"]
    config = CONFIGS / "tiny-deepseek-v3.json"
    done = subprocess.run([*command, config], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nmtp: {block: sparse, norm: rms}\n" in page.read_text()
