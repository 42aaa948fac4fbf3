"""How much of a head is rotated: in either place of a configuration, and in what is saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models.tiny import cases, save

Build = Callable[..., Any]


def test_another_part_is_another_model(build: Build, tmp_path: Path) -> None:
    (case,) = (case for case in cases("glm4_moe") if case.title == "quarter")
    folder = tmp_path / "checkpoint"
    save(case, folder, dtype=torch.float32)
    package = build(folder, "O0")
    package.save(package.load(folder), tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    assert saved["partial_rotary_factor"] == 0.25

    config = json.loads((folder / "config.json").read_text())
    config |= config.pop("rope_parameters")  # as configurations had it before

    def load(**fields: object) -> None:
        (folder / "config.json").write_text(json.dumps(config | fields))
        package.load(folder)

    load()
    for factor in (0.5, 1.0):
        with pytest.raises(ValueError, match=rf"partial_rotary_factor: {factor}, not 0\.25"):
            load(partial_rotary_factor=factor)
    del config["partial_rotary_factor"]  # transformers then takes a half
    with pytest.raises(ValueError, match=r"partial_rotary_factor: 0\.5, not 0\.25"):
        load()
