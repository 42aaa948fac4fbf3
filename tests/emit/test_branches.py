"""The order in which a model asks which of an op's kernels to run."""

from __future__ import annotations

from typing import Any

import pytest
from archsmith.compiler.emit.branches import branches

TRAIN, PREFILL, DECODE = "train", "prefill", "decode"


def condition(phases: tuple[str, ...]) -> str:
    return " or ".join(phases)


@pytest.mark.parametrize(
    ("served", "asked"),
    [
        ([(TRAIN, PREFILL), (DECODE,)], [(DECODE,), (TRAIN, PREFILL)]),
        ([(TRAIN, DECODE), (PREFILL,)], [(TRAIN, DECODE), (PREFILL,)]),
        ([(PREFILL, DECODE), (TRAIN,)], [(TRAIN,), (PREFILL, DECODE)]),
        ([(DECODE,), (PREFILL,), (TRAIN,)], [(TRAIN,), (DECODE,), (PREFILL,)]),
        ([(DECODE,), (PREFILL,)], [(DECODE,), (PREFILL,)]),
    ],
)
def test_training_is_told_by_its_cache_and_decoding_by_its_tokens(
    served: list[Any], asked: list[Any]
) -> None:
    kernels: list[Any] = [(phases, object()) for phases in served]
    found = list(branches(kernels, condition))
    assert [test for test, _, _ in found] == [" or ".join(phases) for phases in asked]
    by_phases = {phases: kernel for phases, kernel in kernels}
    assert [kernel for _, _, kernel in found] == [by_phases[phases] for phases in asked]
    for (_, may, _), phases in zip(found, asked, strict=True):
        alone = phases == (DECODE,) and (TRAIN, PREFILL) in served
        assert may == ((TRAIN, DECODE) if alone else phases)
