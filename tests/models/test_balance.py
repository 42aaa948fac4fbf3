"""What routers do, and the loss that levels it, against `transformers` in float64."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from models.oracle import Float64
from models.test_gradients import becomes_its_gradients, tensors_of
from models.test_oracle import First, seeded
from models.tiny import cases
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

EXACT = 1e-10  # of the largest, in float64; errors seen are near 1e-15
LOSSES = ("gpt_oss", "mixtral")  # whose choice is that of the loss: no bias, no groups


def routes_of(model: Any, tokens: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Run a model of `transformers`; return each router's logits [B * T, E] and choices."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(_: object, __: object, made: tuple[torch.Tensor, ...]) -> None:
        seen.append((made[0], made[2]))

    routers = [m for name, m in model.named_modules() if name.endswith((".gate", "mlp.router"))]
    hooks = [router.register_forward_hook(keep) for router in routers]
    with Float64():
        model(tokens, use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("pipeline", ["O0", "O2"])
@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3", *LOSSES])
def test_routes_and_the_gradients_of_their_loss(
    family: str, pipeline: str, first: First, tmp_path: Path
) -> None:
    case = cases(family)[0]
    package, folder, reference = first(case, pipeline)
    tokens = torch.randint(case.fields["vocab_size"], (2, 11), generator=seeded())
    valid = torch.arange(11) < torch.tensor([[11], [7]])
    reference, model = copy.deepcopy(reference), package.load(folder, dtype=torch.float64)
    wanted = routes_of(reference, tokens)
    with package.balance.recording(model, valid) as routes:
        model(tokens)
    assert len(routes) == len(wanted) > 1
    for route, (logits, index) in zip(routes.values(), wanted, strict=True):
        error = (route.logits.flatten(0, 1) - logits).abs().max()
        assert error <= EXACT * logits.abs().max()
        assert torch.equal(route.index.flatten(0, 1).sort().values, index.sort().values)
        counts = index[valid.flatten()].flatten().bincount(minlength=logits.shape[1])
        assert torch.equal(route.counts(), counts)
    if family not in LOSSES:
        return

    router = route.router
    for mask in (None, valid):
        logits = tuple(logits for logits, _ in routes_of(reference, tokens))
        with Float64():
            theirs = load_balancing_loss_func(logits, router.experts, router.top_k, mask)
        with package.balance.recording(model, mask) as routes:
            model(tokens)
        ours = package.balance.auxiliary_loss(routes)
        assert (ours - theirs).abs() <= EXACT * theirs
    theirs.backward()
    ours.backward()
    becomes_its_gradients(reference)
    becomes_its_gradients(model)
    reference.save_pretrained(tmp_path / "wanted")
    package.save(model, tmp_path / "found")
    gradients, found = tensors_of(tmp_path / "wanted"), tensors_of(tmp_path / "found")
    for name, gradient in gradients.items():
        assert (found[name] - gradient).abs().max() <= EXACT * gradient.abs().max(), name
    moving = [name for name, gradient in gradients.items() if gradient.any()]
    assert any("router" in name or "gate.weight" in name for name in moving)
