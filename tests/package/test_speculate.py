"""Speculation: the greedy tokens whatever the drafts say, in fewer calls the better they are."""

from __future__ import annotations

import importlib
import unittest
from itertools import takewhile
from types import ModuleType
from typing import Any

import pytest
import torch
from package.tiny import Build, close, fresh, prompt
from torch.nn.functional import cross_entropy

MOST = 24


def with_draft(page: str, /) -> str:
    """A layer that drafts, and words so few that one which learned nothing is right at times."""
    page = page.replace("vocab_size: 337", "vocab_size: 5")
    return page.replace("checkpoint:", "mtp: {block: sparse, norm: rms}\ncheckpoint:")


@pytest.fixture(scope="module")
def drafting(package: Build) -> ModuleType:
    return package("tiny-deepseek-v3", with_draft, "drafting")


@pytest.fixture(scope="module")
def trained(drafting: ModuleType) -> Any:
    """A model that learned, with the loss of the documents, to say words in a cycle."""
    model = fresh(drafting, torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    starts = torch.arange(5)[:, None]
    tokens = (starts + torch.arange(12)) % 5
    losses = []
    for _ in range(12):
        logits, drafts = model.forecast(tokens)
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        further = cross_entropy(drafts[:, :-1].flatten(0, 1), tokens[:, 2:].flatten())
        optimizer.zero_grad()
        (loss + 0.3 * further).backward()
        optimizer.step()
        losses.append(further.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(weight.grad is not None for weight in model.draft_layer.parameters())
    return model.double()


@pytest.mark.parametrize("depth", [1, 3])
def test_tokens_are_those_of_generate_with_some_drafts_right(
    depth: int, drafting: ModuleType
) -> None:
    accepted = drafted = 0
    for seed in range(3):
        model, tokens = fresh(drafting, seed=seed), prompt(drafting, rows=4)
        wanted = drafting.generate(model, tokens, max_new_tokens=MOST)
        found = drafting.speculate(model, tokens, max_new_tokens=MOST, depth=depth)
        assert torch.equal(found.tokens, wanted)
        assert found.rate == found.accepted / found.drafted
        accepted, drafted = accepted + found.accepted, drafted + found.drafted
    assert 0.05 * drafted < accepted < 0.95 * drafted


@pytest.mark.parametrize("depth", [1, 2])
def test_drafts_are_those_of_full_passes(depth: int, drafting: ModuleType) -> None:
    """Whatever is drafted the text is right; here it is told whether what is drafted is."""
    tokens, lengths = prompt(drafting, rows=3), [9, 2, 5]
    for seed in range(4):
        model = fresh(drafting, seed=seed)
        found = drafting.speculate(
            model, tokens, max_new_tokens=7, depth=depth, lengths=lengths, eos=4
        )
        drafted = accepted = 0
        for b, length in enumerate(lengths):
            new = found.tokens[b].tolist()
            text = tokens[b, :length].tolist() + new[: new.index(4) + 1 if 4 in new else None]
            sure = length + 1
            while sure < len(text):
                guesses = drafts(model, torch.tensor([text[:sure]]), depth)
                pairs = zip(guesses, text[sure:], strict=False)
                right = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
                drafted, accepted, sure = drafted + depth, accepted + right, sure + right + 1
        assert (found.drafted, found.accepted) == (drafted, accepted)


def drafts(model: Any, text: torch.Tensor, depth: int) -> list[int]:
    """What is drafted after a text [1, T], by passes over all of it."""
    found: list[int] = []
    with torch.no_grad():
        hidden = model.hidden(text)[:, :-1]
        for _ in range(depth):
            last = model.draft(text[:, 1:], hidden)[:, -1:]
            token = model.logits(last).argmax(-1)
            text, hidden = torch.cat((text, token), 1), torch.cat((hidden, last), 1)
            found.append(int(token))
    return found


def test_routers_of_the_draft_are_recorded_and_levelled(drafting: ModuleType) -> None:
    model, tokens = fresh(drafting), prompt(drafting)
    with torch.no_grad(), drafting.balance.recording(model) as routes:
        model(tokens)
        assert list(routes) == [(1, "experts"), (2, "experts")]
        model.forecast(tokens)
    last = routes[3, "experts"]
    assert last.index.shape == (2, 8, 4)
    before = model.draft_layer.router_bias.clone()
    drafting.balance.update_bias(model, routes, rate=0.5)
    moved = model.draft_layer.router_bias - before
    torch.testing.assert_close(moved, 0.5 * (4.0 - last.counts().double()).sign())
    assert model.draft_layer.record is None


def test_good_drafts_save_calls(drafting: ModuleType, trained: Any) -> None:
    tokens = (torch.arange(3)[:, None] + torch.arange(6)) % 5
    wanted = drafting.generate(trained, tokens, max_new_tokens=MOST)
    assert torch.equal(wanted, (torch.arange(3)[:, None] + 6 + torch.arange(MOST)) % 5)
    found = drafting.speculate(trained, tokens, max_new_tokens=MOST)
    assert torch.equal(found.tokens, wanted)
    assert found.rate > 0.9
    assert found.calls <= 1 + -(-(MOST - 1) // 2) + 2


def test_drafts_that_are_all_wrong_cost_calls_alone(drafting: ModuleType, trained: Any) -> None:
    model, tokens = trained, prompt(drafting)
    right = model.draft

    def wrong(*given: Any) -> torch.Tensor:
        return -right(*given)  # the likeliest word becomes the least likely

    model.draft = wrong
    try:
        found = drafting.speculate(model, tokens, max_new_tokens=MOST, depth=2)
    finally:
        del model.draft
    assert (found.accepted, found.calls) == (0, MOST)
    assert torch.equal(found.tokens, drafting.generate(model, tokens, max_new_tokens=MOST))


def test_ragged_rows_that_end_where_they_end(drafting: ModuleType, trained: Any) -> None:
    for model in (trained, fresh(drafting)):
        tokens = prompt(drafting, rows=4)
        lengths = torch.tensor([9, 1, 4, 7])
        padded = tokens.masked_fill(torch.arange(9) >= lengths[:, None], 10**9)
        for eos in (None, [4, 0]):
            for most in (1, 2, MOST):
                wanted = drafting.generate(
                    model, padded, max_new_tokens=most, lengths=lengths, eos=eos
                )
                found = drafting.speculate(
                    model, padded, max_new_tokens=most, lengths=lengths, eos=eos, depth=2
                )
                assert torch.equal(found.tokens, wanted)


def test_what_a_draft_reads_is_what_the_head_read(drafting: ModuleType) -> None:
    model, tokens = fresh(drafting), prompt(drafting)
    with torch.no_grad():
        hidden = model.hidden(tokens)
        close(model.logits(hidden), model(tokens))
        drafted = model.draft(tokens[:, 1:], hidden[:, :-1])
    cache, draft_cache = model.new_cache(2, 9), model.new_draft_cache(2, 8)
    close(model.prefill(tokens, cache), model.logits(hidden[:, -1]))
    close(model.draft(tokens[:, 1:7], hidden[:, :6], draft_cache), drafted[:, :6])
    draft_cache.truncate(4)
    close(model.draft(tokens[:, 5:], hidden[:, 4:-1], draft_cache), drafted[:, 4:])
    assert model.draft_layer.rows == model.layers[-1].rows


def test_what_cannot_be_is_refused(drafting: ModuleType) -> None:
    model, tokens = fresh(drafting), prompt(drafting)
    for wrong in ({"depth": 0}, {"max_new_tokens": -1}, {"lengths": [0, 9]}, {"lengths": [9]}):
        with pytest.raises(ValueError, match=r"depth|length"):
            drafting.speculate(model, tokens, **wrong)
    with pytest.raises(ValueError, match=r"\[B, T\]"):
        drafting.speculate(model, tokens[0])
    assert drafting.speculate(model, tokens, max_new_tokens=0).tokens.shape == (2, 0)
    hidden = model.hidden(tokens)
    with pytest.raises(ValueError, match="hidden"):
        model.draft(tokens[:, 1:], hidden)
    with pytest.raises(ValueError, match="cache of 3"):
        model.draft(tokens, hidden, model.new_draft_cache(3, 9))
    with pytest.raises(ValueError, match="length is 8"):
        model.draft(tokens, hidden, model.new_draft_cache(2, 8))


@pytest.mark.parametrize(("what", "least"), [("package", 10), ("drafts", 2)])
def test_a_package_checks_itself(what: str, least: int, drafting: ModuleType) -> None:
    """One whose router has a bias, which is no parameter, as well."""
    module = importlib.import_module(f"{drafting.__name__}.tests.test_{what}")
    tests = unittest.defaultTestLoader.loadTestsFromModule(module)
    assert tests.countTestCases() >= least
    result = unittest.TextTestRunner().run(tests)
    assert result.wasSuccessful()
    assert all("CUDA graphs" in why for _, why in result.skipped)
