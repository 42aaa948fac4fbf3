"""How a Triton kernel is held to its op: run by Triton's interpreter, between guards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from archsmith.compiler.emit.kernels import kernel_file, launches_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.machine.target import Target
from archsmith.compiler.machine.tuned import Options
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.candidates import address, use
from archsmith.compiler.schedule.code import name
from archsmith.compiler.schedule.kernel import GradientKernel, Kernel
from archsmith.compiler.schedule.kernel import operands as given_to
from kernels.emissions import imported
from kernels.guards import Guards, guarded

# What the templates of references ask for.
VALUES = {"module": SimpleNamespace(windowed=False, page=None)}
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "int8": torch.int8,
    "int64": torch.int64,
}

Edit = Callable[[str], str]
Results = tuple[np.ndarray, ...]
Run = Callable[[Edit | None], tuple[Results, Results]]


@cache
def registry() -> Registry:
    return Registry.installed()


def interpreted(
    kernel: str,
    op: Op,
    types: Sequence[str],
    sizes: Sizes,
    *,
    dtype: str,
    values: Mapping[str, np.ndarray] | None = None,
    part_of: Mapping[str, int | tuple[int, ...]] | None = None,
    target: str | Target = "h200",
    edit: Edit | None = None,
    phases: tuple[str, ...] = ("prefill",),
    tiles: Mapping[int | None, Options] = MappingProxyType({}),
    given: Mapping[str, np.ndarray | int] | None = None,
) -> tuple[Results, Results]:
    """What a kernel computes, and what its op's reference does in float64 of the same operands.

    `types` are the operands' as `[B, T, 64]`, of `dtype` where they name none; `values` are
    operands that are not simply random; `part_of` says of which wider rows one is a part, or of how
    many heads and which wider rows. `edit` breaks the emitted text on purpose; `tiles` are other
    candidates than the first, by rows; `given` is what the kernel is given in place of operands of
    the op, or beside them. A write outside of a result is an AssertionError, and so are counters
    that are not zero again; what is read outside of an operand is not a number.
    """
    family = registry().kernels[kernel]()
    whole = [TensorType.parse(t if not t.startswith("[") else f"{dtype}{t}") for t in types]
    names = op.named(len(whole))
    chip = registry().targets[target] if isinstance(target, str) else target
    refusal = family.refuses(op, tuple(whole), chip)
    assert refusal is None, refusal
    operands = drawn(dict(zip(names, whole, strict=True)), sizes, values or {}, part_of or {})
    exact = (x.double() if x.is_floating_point() else x for x in operands.values())
    module = emitted(family, {op: tuple(whole)}, chip, edit, tiles)
    functions = {n: f.launch for n, f in vars(module).items() if hasattr(f, "launch")}
    others = {
        key: value if isinstance(value, int) else guarded(_stored(operands.get(key), value, dtype))
        for key, value in (given or {}).items()
    }
    counters = family.counters(op, tuple(whole), chip) * sizes.batch
    beside = {key: name(key) for key in others if key not in operands}
    beside |= {"arrived": name("arrived")} if counters else {}
    code = family.call(op.at("size"), *map(name, names), phases=phases, **beside)
    with np.errstate(all="ignore"), Guards() as guards:
        arrived = torch.zeros(counters, dtype=torch.int32)
        others = {"arrived": arrived, **others}
        found = eval(code.text, {**vars(module), **functions, **operands, **others})
    guards.check()
    assert not arrived.any(), "counters were written for good"
    wanted = op.at("size").reference(*(x.numpy() for x in exact))
    return as_arrays(found), as_arrays(wanted)


def _stored(instead: torch.Tensor | None, value: np.ndarray, dtype: str) -> torch.Tensor:
    """A value in the dtype of the operand that it is given instead of, or in that of floats."""
    x = torch.from_numpy(value)
    if not x.is_floating_point():
        return x
    return x.to(DTYPES[dtype] if instead is None else instead.dtype)


def in_pages(
    contexts: Mapping[str, np.ndarray], page: int, ends: Sequence[int]
) -> dict[str, np.ndarray | int]:
    """Contexts [B, S, *row] laid out in pages, their table in no order, and how many slots S is.

    Of a row, only the pages of its first ends[b] slots are in the table, which else says 0. What is
    no row's is not a number.
    """
    batch, slots = next(iter(contexts.values())).shape[:2]
    columns = -(-slots // page)
    numbers = np.random.default_rng(2).permutation(batch * columns).reshape(batch, columns) + 1
    table = np.where(np.arange(columns) < -(-np.array(ends)[:, None] // page), numbers, 0)
    found: dict[str, np.ndarray | int] = {"table": table.astype(np.int32), "slots": slots}
    for key, rows in contexts.items():
        pages = np.full((batch * columns + 1, page, *rows.shape[2:]), np.nan)
        for b, end in enumerate(ends):
            for slot in range(end):
                pages[table[b, slot // page], slot % page] = rows[b, slot]
        found[key] = pages
    return found


def gradients(
    kernel: str,
    op: Op,
    types: Sequence[str],
    sizes: Sizes,
    *,
    of: Sequence[str],
    dtype: str,
    unwanted: Sequence[str] = (),
    values: Mapping[str, np.ndarray] | None = None,
    part_of: Mapping[str, int | tuple[int, ...]] | None = None,
    target: str = "h200",
    edit: Edit | None = None,
    phases: tuple[str, ...] = ("train",),
    tiles: Mapping[int | None, Options] = MappingProxyType({}),
) -> tuple[Results, Results]:
    """What a kernel of gradients computes, and what PyTorch's autograd does in float64.

    As `interpreted`; `of` are the operands whose gradients it returns, of which none is to be
    computed of those that are `unwanted`. The gradients of results are drawn, and are in `part_of`
    as `gradient_0` and so on, and `values` has the results that are saved, as `result_1`. PyTorch
    goes through the emitted reference of the other kernel.
    """
    family = registry().kernels[kernel]()
    assert isinstance(family, GradientKernel)
    forward = registry().kernels[family.differentiates]()
    whole = tuple(TensorType.parse(t if not t.startswith("[") else f"{dtype}{t}") for t in types)
    chip = registry().targets[target]
    refusal = family.refuses(op, whole, chip)
    assert refusal is None, refusal
    named = given_to(family, use(family, op, whole, chip))
    operands = drawn(named, sizes, values or {}, part_of or {})
    module = emitted(family, {op: whole}, target, edit, tiles)
    function = getattr(module, family.functions[0])
    code = family.call(op.at("size"), *map(name, operands), phases=("train",))

    def launch(*arguments: Any) -> Any:
        wanted = [w and key not in unwanted for key, w in zip(of, arguments[-1], strict=False)]
        return function.launch(*arguments[:-1], wanted + list(arguments[-1][len(of) :]))

    with np.errstate(all="ignore"), Guards() as guards:
        found = eval(code.text, {family.functions[0]: launch, **operands})
    guards.check()
    exact = {key: x.double() if x.is_floating_point() else x for key, x in operands.items()}
    leaves = [exact[key].requires_grad_() for key in of]
    names = op.operand_names()[: len(whole)]
    code = forward.call(op.at("size"), *map(name, names), phases=phases)
    reference = {f: getattr(module, f).reference for f in forward.functions}
    results = eval(code.text, {**reference, **exact})
    results = results if isinstance(results, tuple) else (results,)
    along = [exact[key] for key in operands if key.startswith("gradient_")]
    wanted = torch.autograd.grad(results, leaves, along)
    asked = [torch.zeros(0) if key in unwanted else x for key, x in zip(of, wanted, strict=True)]
    return as_arrays(tuple(found[: len(of)])), as_arrays(tuple(asked))


def drawn(
    types: Mapping[str, TensorType],
    sizes: Sizes,
    values: Mapping[str, np.ndarray],
    part_of: Mapping[str, int | tuple[int, ...]],
) -> dict[str, torch.Tensor]:
    """Operands of these types between guards, random where they have no values."""
    draws = np.random.default_rng(0)
    operands = {}
    for key, type in types.items():
        shape = type.sizes("size", B=sizes.batch, T=sizes.tokens, S=sizes.context)
        tensor = torch.from_numpy(values[key] if key in values else draws.standard_normal(shape))
        operands[key] = guarded(tensor.to(DTYPES[type.dtype]), part_of.get(key, 0))
    return operands


def holds(run: Run, edit: Edit | None, close: float) -> bool:
    """Whether a kernel does what its op says, as it is (`edit` None) or broken on purpose."""
    try:
        return differ(*run(edit)) < close
    except AssertionError as error:
        if "written" in str(error):
            return False
        raise


def differ(found: Results, wanted: Results) -> float:
    """The largest difference, relative to the largest number of its result."""
    worst = 0.0
    for x, y in zip(found, wanted, strict=True):
        assert x.shape == y.shape, f"{x.shape} is not {y.shape}"
        difference = np.abs(x - y).max(initial=0.0) / (np.abs(y).max(initial=0.0) + 1e-30)
        worst = max(worst, float("inf") if np.isnan(difference) else float(difference))
    return worst


def emitted(
    kernel: Kernel,
    ops: Mapping[Op, tuple[TensorType, ...]],
    target: str | Target,
    edit: Edit | None = None,
    tiles: Mapping[int | None, Options] = MappingProxyType({}),
    values: Mapping[str, Any] = MappingProxyType(VALUES),
) -> ModuleType:
    """The emitted file of a kernel that computes some ops, each of operands of these types.

    `tiles` are other candidates, of whichever of its kernels offers them; `values` are what all
    templates are given.
    """
    chip = registry().targets[target] if isinstance(target, str) else target
    files = {}
    gradient = kernel if isinstance(kernel, GradientKernel) else None
    forward = registry().kernels[gradient.differentiates]() if gradient else kernel
    references = list(_references(forward))
    windowed = any(getattr(op, "window", None) is not None for op in ops)
    page = next((op.pages() for op in ops if op.pages() is not None), None)
    values = {"module": SimpleNamespace(windowed=windowed, page=page and page.size)}
    for family in (*references, forward):
        for op, types in ops.items():
            for step in family.beside(op, types):
                made, own = [use(step.kernel, step.op, step.operands, chip)], step.kernel
                for stem in (own.stem(), *own.parts):
                    files[stem] = kernel_file(own, made, chip, values, part=stem)
    apart = [gradient] if gradient and gradient.stem() != forward.stem() else []
    offered = not tiles
    for family in (*references, *apart, forward):
        uses = [
            use(family, op, types, chip, {address(family, op, types): tiles})
            for op, types in ops.items()
        ]
        last = [use.tiles[-1][1].options() for use in uses if use.tiles]
        offered |= any(options in tiles.values() for options in last)
        own = gradient if family is forward else None
        for stem in (family.stem(), *family.parts):
            files[stem] = kernel_file(family, uses, chip, values, own, part=stem)
    assert offered, "no kernel offers these tiles"
    if edit is not None:
        broken = {stem: edit(files[stem]) for stem in (kernel.stem(), *kernel.parts)}
        assert any(files[stem] != text for stem, text in broken.items()), "the edit changed nothing"
        files |= broken
    templates = registry().templates
    files |= {
        Path(path).stem: text
        for path, text in launches_file(templates["launches.py"], chip).items()
    }
    files["operators"] = operators_file(templates["operators.py"], files, 4)
    return imported(tuple(sorted(files.items())), forward.stem())


def _references(kernel: Kernel) -> Iterator[Kernel]:
    """What a kernel calls where it cannot run, and what that one calls."""
    if kernel.reference:
        reference = registry().kernels[kernel.reference]()
        yield reference
        yield from _references(reference)


def as_arrays(results: Any) -> Results:
    results = results if isinstance(results, tuple) else (results,)
    return tuple(
        r.double().numpy() if isinstance(r, torch.Tensor) else np.asarray(r) for r in results
    )
