"""Levelling experts: counts, losses by hand, the bias, and that recording changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from package.tiny import Build, fresh, prompt
from torch.utils.checkpoint import checkpoint

VALID = torch.arange(9) < torch.tensor([[9], [4], [0]])
LOSSES = ("auxiliary_loss", "expert_loss", "sequence_loss", "z_loss")


@pytest.fixture
def built(package: Build) -> ModuleType:
    """Experts that are shared stand among the others, and groups and a bias choose."""
    return package("tiny-deepseek-v3")


def recorded(built: ModuleType, valid: torch.Tensor | None = None) -> tuple[Any, Any]:
    model = fresh(built)
    with built.balance.recording(model, valid) as routes:
        model(prompt(built, 3))
    return model, routes


def by_hand(routes: Any, valid: torch.Tensor) -> dict[str, float]:
    """Each loss as its paper has it, one sum after the other."""
    losses = dict.fromkeys(LOSSES, 0.0)
    tokens, pooled, chosen = 0, 0.0, 0.0
    for route in routes.values():
        experts, k = route.router.experts, route.router.top_k
        logits, index = route.logits.detach().numpy(), route.index.numpy()
        scores = 1 / (1 + np.exp(-logits))
        soft = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        count, share = np.zeros(experts), np.zeros(experts)
        z, total, rows, loss = 0.0, 0, 0, 0.0
        for b, row in enumerate(valid.numpy()):
            best, part = np.zeros(experts), np.zeros(experts)
            for t in np.flatnonzero(row):
                count[index[b, t]] += 1
                share += scores[b, t]
                pooled, z = pooled + soft[b, t], z + np.log(np.exp(logits[b, t]).sum()) ** 2
                best[np.argsort(-scores[b, t])[:k]] += 1
                part += scores[b, t] / scores[b, t].sum()
            if row.any():
                length = row.sum()
                loss += (experts / (k * length) * best * part / length).sum()
                total, rows = total + length, rows + 1
        losses["expert_loss"] += (experts / (k * total) * count * share / total).sum()
        losses["sequence_loss"] += loss / rows
        losses["z_loss"] += z / total
        tokens, chosen = tokens + total, chosen + count
    losses["auxiliary_loss"] = (experts * chosen / tokens * pooled / tokens).sum()
    return losses


@pytest.mark.parametrize("valid", [VALID, None], ids=["padded", "full"])
def test_losses_are_those_by_hand(built: ModuleType, valid: torch.Tensor | None) -> None:
    _, routes = recorded(built, valid)
    wanted = by_hand(routes, torch.ones(3, 9, dtype=torch.bool) if valid is None else valid)
    for name in LOSSES:
        found = getattr(built.balance, name)(routes)
        assert found.dtype == torch.float64
        assert abs(found.item() - wanted[name]) < 1e-12 * wanted[name], name


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_losses(built: ModuleType, name: str) -> None:
    """By differences; what was counted is taken to be constant."""
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    index = torch.randint(5, (2, 3, 2))
    valid = torch.tensor([[True, True, True], [True, False, False]])

    def loss(score: str) -> Callable[[torch.Tensor], torch.Tensor]:
        router = built.balance.Router(score=score, experts=5, top_k=2)
        return lambda x: getattr(built.balance, name)(
            {(0, "experts"): built.balance.Route(router, x, index, valid)}
        )

    for score in ("softmax", "sigmoid", "sqrtsoftplus"):
        assert torch.autograd.gradcheck(loss(score), logits)


def test_counts_are_of_experts_that_can_be_chosen(built: ModuleType) -> None:
    """The shared expert stands behind the others in the weights, and is in no count."""
    model, routes = recorded(built, VALID)
    assert list(routes) == [(1, "experts"), (2, "experts")]
    for (i, _), route in routes.items():
        assert len(model.layers[i].experts_down) == route.router.experts + 1
        assert route.counts().sum() == 13 * route.router.top_k
        assert route.index.max() < route.router.experts
        wanted = route.logits[VALID].sigmoid().mean(0)
        torch.testing.assert_close(route.mean_scores(), wanted, rtol=1e-12, atol=0)


def test_the_bias_moves_towards_the_mean(built: ModuleType) -> None:
    model, routes = recorded(built)
    before = [layer.router_bias.clone() for layer in model.layers[1:]]
    built.balance.update_bias(model, routes, rate=0.25)
    for (i, _), bias in zip(routes, before, strict=True):
        counts = routes[i, "experts"].counts()
        step = 0.25 * (27 * 4 / 16 - counts.double()).sign()
        assert step.unique().tolist() == [-0.25, 0.25]
        torch.testing.assert_close(model.layers[i].router_bias, bias + step)
    # Of several forwards the sums; an expert with the mean load stays.
    bias = model.layers[1].router_bias.clone()
    sums = torch.full((16,), 8).index_put((torch.tensor([2, 5]),), torch.tensor([9, 7]))
    built.balance.update_bias(model, {(1, "experts"): sums}, rate=0.5)
    moved = torch.zeros(16, dtype=torch.float64).index_put(
        (torch.tensor([2, 5]),), torch.tensor([-0.5, 0.5], dtype=torch.float64)
    )
    torch.testing.assert_close(model.layers[1].router_bias, bias + moved)


def test_the_bias_levels_the_load(built: ModuleType) -> None:
    model = fresh(built)
    tokens = prompt(built, 8, 32)

    def largest(steps: int) -> float:
        for _ in range(steps):
            with built.balance.recording(model) as routes, torch.no_grad():
                model(tokens)
            built.balance.update_bias(model, routes, rate=0.02)
        counts = torch.stack([route.counts() for route in routes.values()]).double()
        return float((counts.max(1).values / counts.mean(1)).max())

    first = largest(1)
    assert first > 1.8
    assert largest(30) < 1.3


def test_a_router_without_a_bias_is_left_alone(package: Build) -> None:
    built = package("tiny-mixtral")
    model, routes = recorded(built)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    built.balance.update_bias(model, routes)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_a_bias_in_a_narrow_type_is_refused(built: ModuleType) -> None:
    _, routes = recorded(built)
    narrow = fresh(built, torch.bfloat16)
    assert narrow.layers[1].router_bias.dtype == torch.float32
    built.balance.update_bias(narrow, routes)
    narrow = narrow.to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"layers\.1\.router_bias is bfloat16, narrower"):
        built.balance.update_bias(narrow, routes)


def test_recording_changes_nothing_and_ends(built: ModuleType) -> None:
    model, tokens = fresh(built), prompt(built)
    alone = model(tokens)
    with built.balance.recording(model) as routes:
        assert torch.equal(model(tokens), alone)
        with built.balance.recording(model) as inner:
            model(tokens[:, :5])
        model(tokens[:, :6])
    assert [len(r.index[0]) for r in (*routes.values(), *inner.values())] == [6, 6, 5, 5]
    with pytest.raises(RuntimeError), built.balance.recording(model) as routes:
        raise RuntimeError
    model(tokens)
    assert not routes
    with (
        built.balance.recording(model, torch.ones(2, 8, dtype=torch.bool)),
        pytest.raises(ValueError, match=r"valid must be bool \[2, 9\], got bool \[2, 8\]"),
    ):
        model(tokens)


def test_layers_that_are_computed_again(built: ModuleType) -> None:
    """Under activation checkpointing: the same counts, losses and gradients."""
    tokens = prompt(built, 3)

    def trained(again: bool) -> tuple[list[list[int]], list[torch.Tensor]]:
        model = fresh(built)
        for layer in model.layers:
            whole = layer.forward
            if again:
                layer.forward = lambda *x, whole=whole: checkpoint(whole, *x, use_reentrant=False)
        with built.balance.recording(model) as routes:
            logits = model(tokens)
            loss = built.balance.sequence_loss(routes) + built.balance.z_loss(routes)
            (logits.logsumexp(-1).mean() + loss).backward()
        counts = [route.counts().tolist() for route in routes.values()]
        return counts, [weight.grad for weight in model.parameters()]

    (counts, gradients), (wanted, expected) = trained(True), trained(False)
    assert counts == wanted
    for found, gradient in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_a_compiled_layer_is_recorded(built: ModuleType) -> None:
    """Though it was compiled before it was recorded, and each time."""
    model, tokens = fresh(built), prompt(built, 3)
    layer, given = model.layers[1], []
    hook = layer.register_forward_pre_hook(lambda _, operands: given.append(operands))
    with built.balance.recording(model) as wanted:
        model(tokens)
    hook.remove()
    compiled = torch.compile(layer.forward, backend="eager")
    compiled(*given[0])
    for _ in range(2):
        with built.balance.recording(model) as routes:
            compiled(*given[0])
        assert torch.equal(routes[1, "experts"].index, wanted[1, "experts"].index)


def test_models_without_routers_have_no_such_file(package: Build) -> None:
    built = package("tiny-llama")
    assert not hasattr(built, "balance")
    assert not hasattr(built.model.Layer, "record")
