"""Gate, up and down cut along F: what each device makes of its slice are parts of one sum."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from package.tiny import Build, close, fresh, prompt
from torch import nn

AXES = {"gate_up": -2, "down": -1}  # F of a weight, by what its name ends with


def shard(layer: nn.Module, first: float, last: float) -> nn.Module:
    """The layer as a device has it that holds a part of F: one slice of each weight."""
    own = copy.deepcopy(layer)
    for key, weight in layer.named_parameters():
        name, number = (key, "") if "." not in key else key.split(".")
        for ending, axis in AXES.items():
            if name.endswith(ending):
                start, end = (round(share * weight.shape[axis]) for share in (first, last))
                part = nn.Parameter(weight.detach().narrow(axis, start, end - start).clone())
                if number:
                    getattr(own, name)[int(number)] = part
                else:
                    setattr(own, name, part)
    return own


@pytest.mark.parametrize("cuts", [(0, 0.5, 1), (0, 0.25, 0.9, 1)], ids=["halves", "unlike"])
@pytest.mark.parametrize("tokens", [1, 9])
@pytest.mark.parametrize("example", ["tiny-llama", "tiny-mixtral", "tiny-deepseek-v3"])
def test_shards_add_up(example: str, tokens: int, cuts: tuple[float, ...], package: Build) -> None:
    """A layer returns its stream, and what its feed-forward would add: the sum over devices."""
    built = package(example)
    model = fresh(built)
    given: list[tuple[Any, ...]] = []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda layer, inputs: given.append((layer, *inputs)))
    with torch.no_grad():
        model(prompt(built, length=tokens))
        assert len(given) == len(model.layers)
        for layer, *inputs in given:
            layer._forward_pre_hooks.clear()
            stream, wanted = layer(*inputs)
            parts = [shard(layer, *cut) for cut in pairwise(cuts)]
            sizes = [sum(p.numel() for p in part.parameters()) for part in parts]
            assert max(sizes) < sum(p.numel() for p in layer.parameters())
            found = [part(*inputs) for part in parts]
            assert all(torch.equal(x, stream) for x, _ in found)
            close(sum((delta for _, delta in found[1:]), found[0][1]), wanted)
            assert wanted.abs().max() > 0.1
