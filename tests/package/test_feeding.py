"""Every way to feed tokens to a package is one full forward; what is refused changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from package.tiny import Build, buffers, close, fresh, prompt
from torch import Tensor

LENGTH = 9


def full(model: Any, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(tokens)
    return logits


@pytest.mark.parametrize("first", [1, 4, 8])
def test_prefill_then_decode(any_package: ModuleType, first: int) -> None:
    model, tokens = fresh(any_package), prompt(any_package)
    wanted, cache = full(model, tokens), model.new_cache(2, LENGTH)
    close(model.prefill(tokens[:, :first], cache), wanted[:, first - 1])
    for t in range(first, LENGTH):
        close(model.decode(tokens[:, t], cache), wanted[:, t])
        assert cache.lengths.tolist() == [t + 1, t + 1]


def test_decode_from_empty(any_package: ModuleType) -> None:
    model, tokens = fresh(any_package), prompt(any_package)
    wanted, cache = full(model, tokens), model.new_cache(2, LENGTH)
    for t in range(LENGTH):
        close(model.decode(tokens[:, t], cache), wanted[:, t])


@pytest.mark.parametrize("chunks", [(3, 6), (1, 1, 7), (5, 1, 3), (9,)])
def test_chunks(any_package: ModuleType, chunks: tuple[int, ...]) -> None:
    model, tokens = fresh(any_package), prompt(any_package)
    wanted = full(model, tokens)
    for ask in (model.prefill, model.extend):
        cache, end = model.new_cache(2, LENGTH), 0
        for chunk in chunks:
            start, end = end, end + chunk
            logits = ask(tokens[:, start:end], cache)
            close(logits, wanted[:, start:end] if ask == model.extend else wanted[:, end - 1])


@pytest.mark.parametrize("as_tensor", [False, True])
def test_ragged_rows_and_a_second_turn_of_them(any_package: ModuleType, as_tensor: bool) -> None:
    """Padding may hold anything, and each row is as if it were alone."""
    model, tokens = fresh(any_package), prompt(any_package, 3, 14)
    wanted = full(model, tokens)
    held = [0, 0, 0]
    cache = model.new_cache(3, 14)
    # The first row's padding in the last call lies past its end, where the second row's slots are.
    for counts, width in (([5, 1, 3], 5), ([2, 6, 4], 8), ([6, 1, 1], 6), ([1, 6, 2], 6)):
        padded = torch.tensor([[-1, 10**9, -(2**63)]]).repeat(3, 3)[:, :width]
        for b, count in enumerate(counts):
            padded[b, :count] = tokens[b, held[b] : held[b] + count]
        lengths = torch.tensor(counts) if as_tensor else counts
        logits = model.prefill(padded, cache, lengths)
        held = [old + count for old, count in zip(held, counts, strict=True)]
        for b, length in enumerate(held):
            close(logits[b], wanted[b, length - 1])
        assert cache.lengths.tolist() == held


def test_speculation(any_package: ModuleType) -> None:
    """Guesses are extended by, judged, and cut off again where they were wrong."""
    model, tokens = fresh(any_package), prompt(any_package)
    wanted, cache = full(model, tokens), model.new_cache(2, LENGTH)
    model.prefill(tokens[:, :3], cache)
    guess = tokens[:, 3:8].clone()
    guess[0, 2:] = guess[0, 2:].flip(0)  # right for 2 tokens of row 0, and for 4 of row 1
    guess[1, 4:] = 0
    logits = model.extend(guess, cache)
    close(logits[0, :2], wanted[0, 3:5])
    close(logits[1, :4], wanted[1, 3:7])
    cache.truncate([5, 7])
    assert cache.lengths.tolist() == [5, 7]
    logits = model.extend(torch.stack((tokens[0, 5:7], tokens[1, 7:9])), cache)
    close(logits, torch.stack((wanted[0, 5:7], wanted[1, 7:9])))


def test_an_emptied_cache_is_a_new_one(any_package: ModuleType) -> None:
    model, tokens = fresh(any_package), prompt(any_package)
    cache = model.new_cache(2, LENGTH)
    model.prefill(tokens.flip(1), cache)
    cache.truncate(0)
    assert cache.lengths.tolist() == [0, 0]
    close(model.extend(tokens, cache), full(model, tokens))


REFUSED: dict[str, Callable[[Any, Tensor, Any], object]] = {
    "prefill is too long": lambda model, tokens, cache: model.prefill(tokens, cache),
    "extend is too long": lambda model, tokens, cache: model.extend(tokens[:, :6], cache),
    "one row is too long": lambda model, tokens, cache: model.prefill(tokens, cache, [2, 8]),
    "a length of 0": lambda model, tokens, cache: model.prefill(tokens, cache, [0, 2]),
    "a length past T": lambda model, tokens, cache: model.prefill(tokens[:, :2], cache, [2, 3]),
    "a length too many": lambda model, tokens, cache: model.prefill(tokens, cache, [1, 1, 1]),
    "lengths of floats": lambda model, tokens, cache: model.prefill(tokens, cache, [1.0, 1.0]),
    "another batch": lambda model, tokens, cache: model.decode(tokens[0, :1], cache),
    "a token past the vocabulary": lambda model, tokens, cache: model.decode(
        torch.tensor([0, 10**6]), cache
    ),
    "a negative token": lambda model, tokens, cache: model.extend(-tokens[:, :1] - 1, cache),
    "no tokens": lambda model, tokens, cache: model.prefill(tokens[:, :0], cache),
    "tokens of int32": lambda model, tokens, cache: model.prefill(tokens[:, :2].int(), cache),
    "tokens of one axis": lambda model, tokens, cache: model.prefill(tokens[:, 0], cache),
    "decode of two axes": lambda model, tokens, cache: model.decode(tokens[:, :1], cache),
    "a cut that grows": lambda model, tokens, cache: cache.truncate(5),
    "a negative cut": lambda model, tokens, cache: cache.truncate([-1, 2]),
    "a cut of one row": lambda model, tokens, cache: cache.truncate([2]),
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_changes_nothing(
    any_package: ModuleType, refused: Callable[[Any, Tensor, Any], object]
) -> None:
    model, tokens = fresh(any_package), prompt(any_package)
    wanted, cache = full(model, tokens), model.new_cache(2, LENGTH)
    model.prefill(tokens[:, :4], cache)
    before = [buffer.clone() for buffer in buffers(cache)]
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        refused(model, tokens, cache)
    assert cache.lengths.tolist() == [4, 4]
    assert all(map(torch.equal, buffers(cache), before))
    close(model.extend(tokens[:, 4:], cache), wanted[:, 4:])


def test_the_cache_says_what_it_holds(package: Build) -> None:
    for example in ("tiny-llama", "tiny-deepseek-v2"):
        built = package(example)
        for dtype in (torch.float64, torch.bfloat16):
            model = fresh(built, dtype)
            small, large = model.new_cache(3, 8), model.new_cache(3, 13)
            rows = [row for layer in model.layers for row in layer.rows.values()]
            per_token = dtype.itemsize * sum(map(math.prod, rows))
            assert isinstance(small.bytes_per_token, int)
            assert small.bytes_per_token == large.bytes_per_token == per_token
            assert large.nbytes - small.nbytes == 3 * 5 * per_token
            assert small.nbytes == sum(buffer.nbytes for buffer in buffers(small))
            assert {buffer.device.type for buffer in buffers(small)} == {"cpu"}
            assert (small.batch, small.length) == (3, 8)
    with pytest.raises(ValueError, match="batch and a length from 1 on"):
        model.new_cache(0, 4)
