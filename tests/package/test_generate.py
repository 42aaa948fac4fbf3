"""Generation: columns, ends of rows, ragged batches, and draws that can be repeated."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from package.tiny import Build, fresh, prompt


def test_the_likeliest_tokens_are_those_of_full_forwards(any_package: ModuleType) -> None:
    model, tokens = fresh(any_package), prompt(any_package)
    found = any_package.generate(model, tokens, max_new_tokens=7)
    assert (found.shape, found.dtype) == ((2, 7), torch.int64)
    whole = tokens
    for t in range(7):
        with torch.no_grad():
            token = model(whole)[:, -1].argmax(-1)
        assert torch.equal(found[:, t], token)
        whole = torch.cat((whole, token[:, None]), 1)


@pytest.mark.parametrize("count", [0, 1, 64])
def test_there_are_as_many_columns_as_asked_for(package: Build, count: int) -> None:
    built = package("tiny-llama")
    found = built.generate(fresh(built), prompt(built), max_new_tokens=count)
    assert found.shape == (2, count)
    if count == 64:
        assert torch.equal(found, built.generate(fresh(built), prompt(built)))


def test_a_ragged_batch_is_each_row_alone(any_package: ModuleType) -> None:
    model, tokens = fresh(any_package), prompt(any_package, 3)
    lengths = torch.tensor([9, 4, 1])
    padded = tokens.clone()
    padded[1, 4:], padded[2, 1:] = -7, 10**9
    found = any_package.generate(model, padded, max_new_tokens=8, lengths=lengths)
    for b, length in enumerate(lengths.tolist()):
        alone = any_package.generate(model, tokens[b : b + 1, :length], max_new_tokens=8)
        assert torch.equal(found[b : b + 1], alone)


def test_a_row_that_ended_is_padded_with_eos(package: Build) -> None:
    built = package("tiny-deepseek-v3")
    model, tokens = fresh(built), prompt(built, 4)
    free = built.generate(model, tokens, max_new_tokens=12)
    first, second = int(free[0, 3]), int(free[1, 5])
    unseen = next(i for i in range(300) if not (free == i).any())
    for eos in (first, [first], [second, first], [unseen, second], unseen):
        stops = [eos] if isinstance(eos, int) else eos
        found = built.generate(model, tokens, max_new_tokens=12, eos=eos)
        assert found.shape == free.shape
        for row, ended in zip(free.tolist(), found.tolist(), strict=True):
            at = next((i for i, token in enumerate(row) if token in stops), 11)
            assert ended == row[: at + 1] + [stops[0]] * (11 - at)


def test_a_stream_gives_each_step_as_it_is_asked_for(package: Build) -> None:
    built = package("tiny-deepseek-v3")
    model, tokens = fresh(built), prompt(built)
    free = built.generate(model, tokens, max_new_tokens=8)
    steps = built.stream(model, tokens, max_new_tokens=8)
    assert torch.equal(next(steps), free[:, 0])
    assert torch.is_grad_enabled()  # what stands between two steps is its caller's
    model.decode = None  # no step is run ahead
    with pytest.raises(TypeError):
        next(steps)
    del model.decode
    eos = [int(free[0, 2]), int(free[1, 4])]
    found = torch.stack(list(built.stream(model, tokens, max_new_tokens=8, eos=eos)), 1)
    assert found.shape[1] < 8
    assert torch.equal(found, built.generate(model, tokens, eos=eos)[:, : found.shape[1]])


def test_draws_are_repeated_by_their_generator(package: Build) -> None:
    built = package("tiny-llama")
    model, tokens = fresh(built), prompt(built)

    def drawn(seed: int, **options: float) -> torch.Tensor:
        source = torch.Generator().manual_seed(seed)
        return built.generate(model, tokens, max_new_tokens=9, generator=source, **options)

    greedy = built.generate(model, tokens, max_new_tokens=9)
    assert torch.equal(drawn(1, temperature=1.0), drawn(1, temperature=1.0))
    assert not torch.equal(drawn(1, temperature=1.0), drawn(2, temperature=1.0))
    assert torch.equal(drawn(1, temperature=0.0), greedy)
    assert torch.equal(drawn(1, temperature=1.0, top_p=1e-9), greedy)
    assert torch.equal(drawn(1, temperature=1e-4), greedy)
    state = torch.random.get_rng_state()
    drawn(1, temperature=1.0)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_draws_follow_the_shares(package: Build) -> None:
    """Of 4,000 rows alike, each token is drawn as often as its probability says."""
    built = package("tiny-llama")
    model = fresh(built)
    tokens = torch.full((4000, 1), 5)
    with torch.no_grad():
        logits = model(tokens[:1])[0, 0]
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.5)):
        share = (logits / temperature).softmax(-1)
        order = share.argsort(descending=True)
        before = share[order].cumsum(0) - share[order]
        kept = torch.zeros_like(share).index_fill(0, order[before < top_p], 1.0) * share
        kept /= kept.sum()
        found = built.generate(
            model,
            tokens,
            max_new_tokens=1,
            temperature=temperature,
            top_p=top_p,
            generator=torch.Generator().manual_seed(0),
        )
        counts = found[:, 0].bincount(minlength=len(share))
        assert not counts[kept == 0].any()
        spread = (4000 * kept * (1 - kept)).sqrt()
        assert ((counts - 4000 * kept).abs() <= 5 * spread + 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens must not be negative"),
        ({"temperature": -0.5}, "temperature must be 0 or more"),
        ({"temperature": float("nan")}, "temperature must be 0 or more"),
        ({"temperature": float("inf")}, "temperature must be 0 or more"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.5}, "top_p must be above 0"),
        ({"lengths": torch.tensor([0, 1])}, "row 0 has length 0"),
        ({"lengths": torch.tensor([1])}, "lengths must be integers"),
    ],
)
def test_wrong_options_are_refused(
    package: Build, options: dict[str, object], message: str
) -> None:
    built = package("tiny-llama")
    with pytest.raises(ValueError, match=message):
        built.generate(fresh(built), prompt(built), **options)
