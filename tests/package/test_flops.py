"""FLOPs that a forecast counts, against those that PyTorch counts as the package runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from archsmith.compiler.driver import Compiler
from archsmith.compiler.ops.attention import Attend
from archsmith.compiler.schedule.forecast import Demand, forecast
from archsmith.compiler.schedule.plan import Plan
from package.tiny import EXAMPLES, TINY, Build
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

ROWS, TOKENS = 3, 11


@pytest.fixture(params=TINY)
def example(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def plan(example: str) -> Plan:
    compiler = Compiler.installed(numeric=False)
    _, passes = compiler.passes(None)
    spec = compiler.load(Path(EXAMPLES / f"{example}.yaml"))
    return compiler.schedule(compiler.rewrite(compiler.build(spec), passes)[0])


def counted(run: Callable[[], object]) -> int:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def beside(plan: Plan, phase: str, known: int, computed: int) -> int:
    """What PyTorch computes of attention beside what a forecast counts, which is `known` pairs.

    Its plain attention also computes the pairs that a mask then hides; and on a CPU a package lets
    values be as wide as keys.
    """
    extra = 0
    for choice in plan.choices:
        if choice.phase == phase and isinstance(choice.op, Attend):
            q, _, v, *_ = (operand.row for operand in choice.operands)
            times = sum(n for name, n in plan.model.schedule if name == choice.block)
            (heads, key), value = (axis.size for axis in q), v[1].size
            wide = max(key, value)
            extra += times * 2 * heads * (computed * (key + wide) - known * (key + value))
    return extra


def test_decoding(example: str, plan: Plan, package: Build) -> None:
    built = package(example)
    model = built.Model(built.Config(dtype=torch.float32))
    cache = model.new_cache(ROWS, TOKENS)
    tokens = torch.arange(ROWS * TOKENS).view(ROWS, TOKENS)
    model.prefill(tokens[:, :-1], cache)
    found = forecast(plan, Demand(ROWS, TOKENS)).phases["decode"].work.flops
    found += beside(plan, "decode", ROWS * TOKENS, ROWS * TOKENS)
    assert found == counted(lambda: model.decode(tokens[:, -1], cache))


def test_a_prompt(example: str, plan: Plan, package: Build) -> None:
    built = package(example)
    model = built.Model(built.Config(dtype=torch.float32))
    cache = model.new_cache(ROWS, TOKENS)
    tokens = torch.arange(ROWS * TOKENS).view(ROWS, TOKENS)
    found = forecast(plan, Demand(ROWS, TOKENS)).phases["prefill"].work.flops
    found += beside(plan, "prefill", ROWS * TOKENS * (TOKENS + 1) // 2, ROWS * TOKENS * TOKENS)
    assert found == counted(lambda: model.prefill(tokens, cache))
