"""How a Triton kernel is held to its op: run by Triton's interpreter, between guards."""

from __future__ import annotations

import importlib
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.machine.target import Target
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.code import name
from archsmith.compiler.schedule.kernel import Kernel
from archsmith.compiler.schedule.select import use
from torch.overrides import TorchFunctionMode

MARGIN = 1 << 14  # elements on either side of a tensor, which no kernel may touch
UNTOUCHED = -77.0
VALUES = {"module": SimpleNamespace(windowed=False)}  # what the templates of references ask for
DTYPES = {"float32": torch.float32, "float16": torch.float16, "int64": torch.int64}

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
) -> tuple[Results, Results]:
    """What a kernel computes, and what its op's reference does in float64 of the same operands.

    `types` are the operands' as `[B, T, 64]`, of `dtype` where they name none; `values` are
    operands that are not simply random; `part_of` says of which wider rows one is a part, or of how
    many heads and which wider rows. `edit` breaks the emitted text on purpose. A write outside of a
    result is an AssertionError; what is read outside of an operand is not a number.
    """
    family = registry().kernels[kernel]()
    whole = [TensorType.parse(t if not t.startswith("[") else f"{dtype}{t}") for t in types]
    names = op.operand_names()[: len(whole)]
    chip = registry().targets[target] if isinstance(target, str) else target
    refusal = family.refuses(op, tuple(whole), chip)
    assert refusal is None, refusal
    draws = np.random.default_rng(0)
    operands, exact = {}, []
    for key, type in zip(names, whole, strict=True):
        shape = type.sizes("size", B=sizes.batch, T=sizes.tokens, S=sizes.context)
        drawn = (values or {}).get(key)
        tensor = torch.from_numpy(draws.standard_normal(shape) if drawn is None else drawn)
        tensor = guarded(tensor.to(DTYPES[type.dtype]), (part_of or {}).get(key, 0))
        operands[key] = tensor
        exact.append(tensor.numpy() if type.dtype == "int64" else tensor.double().numpy())
    module = emitted(family, {op: tuple(whole)}, chip, edit)
    functions = {n: f.launch for n, f in vars(module).items() if hasattr(f, "launch")}
    code = family.call(op.at("size"), *map(name, names), phases=phases)
    with np.errstate(all="ignore"), Guards() as guards:
        found = eval(code.text, {**vars(module), **functions, **operands})
    guards.check()
    wanted = op.at("size").reference(*exact)
    return as_arrays(found), as_arrays(wanted)


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


def guarded(tensor: torch.Tensor, wider: int | tuple[int, ...] = 0) -> torch.Tensor:
    """The same tensor between numbers that are none, as the beginning of axes `wider` at most."""
    last = (wider,) if isinstance(wider, int) else wider
    missing = (0,) * (tensor.dim() - len(last))
    whole = [max(sizes) for sizes in zip(tensor.shape, (*missing, *last), strict=True)]
    room = torch.empty(MARGIN + math.prod(whole) + MARGIN, dtype=tensor.dtype)
    room.fill_(float("nan") if tensor.is_floating_point() else -(2**40))
    inside = room[MARGIN:-MARGIN].view(whole)[tuple(slice(size) for size in tensor.shape)]
    inside.copy_(tensor)
    return inside


class Guards(TorchFunctionMode):
    """Gives every new tensor margins, and tells whether they stayed as they were."""

    def __init__(self) -> None:
        super().__init__()
        self._rooms: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") not in ("empty", "empty_like", "new_empty", "zeros"):
            return made
        room = torch.Tensor.new_full(made, (made.numel() + 2 * MARGIN,), UNTOUCHED)
        self._rooms.append(room)
        inside = room[MARGIN:-MARGIN].view(made.shape)
        if func.__name__ == "zeros":
            inside.zero_()
        return inside

    def check(self) -> None:
        assert self._rooms, "nothing was allocated in a way that is guarded"
        for room in self._rooms:
            assert (room[:MARGIN] == UNTOUCHED).all(), "something was written before a tensor"
            assert (room[-MARGIN:] == UNTOUCHED).all(), "something was written behind a tensor"


def emitted(
    kernel: Kernel,
    ops: Mapping[Op, tuple[TensorType, ...]],
    target: str | Target,
    edit: Edit | None = None,
) -> ModuleType:
    """The emitted file of a kernel that computes some ops, each of operands of these types."""
    chip = registry().targets[target] if isinstance(target, str) else target
    files = {}
    references = [registry().kernels[kernel.reference]()] if kernel.reference else []
    for family in (*references, kernel):
        uses = [use(family, op, types, chip) for op, types in ops.items()]
        for stem in (family.stem(), *family.parts):
            files[stem] = kernel_file(family, uses, chip, VALUES, part=stem)
    if edit is not None:
        broken = {stem: edit(files[stem]) for stem in (kernel.stem(), *kernel.parts)}
        assert any(files[stem] != text for stem, text in broken.items()), "the edit changed nothing"
        files |= broken
    files["operators"] = operators_file(registry().templates["operators.py"], files, 4)
    return _imported(tuple(sorted(files.items())), kernel.stem())


@cache
def _imported(files: tuple[tuple[str, str], ...], stem: str) -> ModuleType:
    root = Path(tempfile.mkdtemp(prefix="archsmith-kernels-"))
    package = root / f"kernels_{root.name.rpartition('-')[2]}"
    package.mkdir()
    (package / "__init__.py").touch()
    for file, text in files:
        (package / f"{file}.py").write_text(text)
    sys.path.insert(0, str(root))
    try:
        importlib.invalidate_caches()
        return importlib.import_module(f"{package.name}.{stem}")
    finally:
        sys.path.remove(str(root))


def as_arrays(results: Any) -> Results:
    results = results if isinstance(results, tuple) else (results,)
    return tuple(
        r.double().numpy() if isinstance(r, torch.Tensor) else np.asarray(r) for r in results
    )
