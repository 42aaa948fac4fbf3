"""Which of an op's kernels runs, where its phases have unlike ones and share their code."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..schedule.kernel import Kernel

Served = list[tuple[tuple[str, ...], Kernel]]
"""Kernels, each with the phases that it serves."""


def branches(
    kernels: Served, condition: Callable[[tuple[str, ...]], str]
) -> Iterator[tuple[str, tuple[str, ...], Kernel]]:
    """A test for each kernel in the order in which they are asked, and the phases that may then be.

    Without a cache it is training; with one, the tokens of a call tell prefill from decode. A
    training call of few tokens may run what decodes: without a cache, it is the same.
    """
    train = [served for served in kernels if "train" in served[0]]
    others = [served for served in kernels if "train" not in served[0]]
    by_tokens = bool(train) and train[0][0] == ("train", "prefill")
    for phases, kernel in others + train if by_tokens else train + others:
        may_train = by_tokens and "train" not in phases
        yield condition(phases), ("train", *phases) if may_train else phases, kernel
