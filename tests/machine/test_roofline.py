"""The roofline, against times worked out by hand."""

from __future__ import annotations

import pytest
from archsmith.compiler.ir.cost import Cost
from archsmith.compiler.machine.roofline import Floor, floor, order
from archsmith.compiler.machine.target import Target

CHIP = Target("chip", "a chip", bandwidth=100.0, peak={"bfloat16": 1000.0}, launch=0.25)
SILENT = Target("silent", "a chip of which nothing is known")


@pytest.mark.parametrize(
    ("cost", "seconds", "bound"),
    [
        (Cost(flops=4000, bytes=100, launches=1), 4.25, "compute"),
        (Cost(flops=4000, bytes=900, launches=1), 9.25, "memory"),
        (Cost(flops=100, bytes=10, launches=3), 0.85, "launches"),
        (Cost(bytes=50), 0.5, "memory"),
    ],
)
def test_the_floor_is_the_slower_of_two_and_the_launches(
    cost: Cost, seconds: float, bound: str
) -> None:
    assert floor(cost, "bfloat16", CHIP) == Floor(seconds, bound)


def test_no_figure_no_floor() -> None:
    assert floor(Cost(bytes=50), "bfloat16", SILENT) is None
    assert floor(Cost(flops=1, bytes=50), "float64", CHIP) is None
    # What multiplies nothing needs no peak.
    assert floor(Cost(bytes=50), "float64", CHIP) == Floor(0.5, "memory")


def test_the_order_is_of_time_where_it_is_known_and_of_bytes_elsewhere() -> None:
    quick, lean = Cost(flops=100, bytes=100, launches=1), Cost(flops=100, bytes=90, launches=3)
    assert order(quick, "bfloat16", CHIP) < order(lean, "bfloat16", CHIP)
    assert order(lean, "bfloat16", SILENT) < order(quick, "bfloat16", SILENT)
    assert order(lean, "float64", CHIP) < order(quick, "float64", CHIP)
    # The same bytes: then fewer flops, then fewer launches.
    assert order(Cost(1, 5, 9), "float64", SILENT) < order(Cost(2, 5, 1), "float64", SILENT)
    assert order(Cost(1, 5, 1), "float64", SILENT) < order(Cost(1, 5, 2), "float64", SILENT)
