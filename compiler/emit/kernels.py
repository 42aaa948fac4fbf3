"""The files of kernels: each family's text, and how its functions become operators."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ..errors import PluginError
from ..machine.target import Target
from ..schedule.code import as_code
from ..schedule.kernel import GradientKernel, Kernel, Use, blamed
from ..schedule.plan import Plan
from .environment import render
from .layout import statement
from .values import Name, Source, Text
from .write import digest


def kernel_files(
    plan: Plan, values: Mapping[str, Any], only: Collection[str] | None = None
) -> dict[str, str]:
    """Each file of kernels by its path; where several kernels share one, that in Triton writes it,
    for its gradients too, and several in Triton are one text.

    `values` are what all templates are given; `only` are the stems of files that are wanted.
    """
    kernels = sorted(plan.emitted(), key=lambda k: (k.triton, not isinstance(k, GradientKernel)))
    _verify(kernels)
    owners = {kernel.stem(): kernel for kernel in kernels}
    owners |= {part: kernel for kernel in kernels for part in kernel.parts}
    return {
        f"kernels/{stem}.py": kernel_file(
            owners[stem],
            [use for kernel in _mates(owners[stem], kernels) for use in plan.uses(kernel)],
            plan.target,
            values,
            plan.gradients.get(name),
            part=stem,
        )
        for stem, name in sorted((stem, owner.name) for stem, owner in owners.items())
        if only is None or stem in only
    }


def _mates(owner: Kernel, kernels: Sequence[Kernel]) -> Iterator[Kernel]:
    """The kernels whose text an owner's file is: those beside it that are of its kind."""
    for kernel in kernels:
        alike = kernel.triton == owner.triton and kernel.stem() == owner.stem()
        if alike and isinstance(kernel, GradientKernel) == isinstance(owner, GradientKernel):
            yield kernel


def _verify(kernels: Sequence[Kernel]) -> None:
    """Raise `PluginError` where two modules would write one file, or define one function."""
    files: dict[str, str] = {}
    functions: dict[str, str] = {}
    for kernel in kernels:
        module = type(kernel).__module__
        package = module.rpartition(".")[0]
        for stem in (kernel.stem(), *kernel.parts):
            other = files.setdefault(stem, f"{package}.{stem}")
            if other != f"{package}.{stem}":
                both = " and ".join(sorted((other, f"{package}.{stem}")))
                raise PluginError(f"kernels/{stem}.py would be written by both {both}")
        for function in kernel.functions:
            other = functions.setdefault(function, module)
            if other != module:
                both = " and ".join(sorted((other, module)))
                raise PluginError(f"function {function} is defined by both {both}")


def kernel_file(
    kernel: Kernel,
    uses: Sequence[Use],
    target: Target,
    values: Mapping[str, Any],
    gradient: Kernel | None = None,
    part: str = "",
) -> str:
    """The file of one kernel that computes these ops, and of that which computes their gradients;
    or of one of its parts.

    Its template is given `gradient`, the function and the file to import it from, or None, and
    `pdl`, whether it is to import `launches.py`.
    """
    uses = tuple(uses)
    with blamed(kernel):
        template = kernel.template(part if part in kernel.parts else "")
        assert template is not None  # it has functions, so it has a file
        tables = {
            key: Source(tuple(statement(f"{key} = {as_code(table).text}", 0)))
            for key, table in kernel.tables(uses, target).items()
        }
        imported = gradient and {
            "function": Name(gradient.functions[0]),
            "file": Name(gradient.stem()),
        }
        own = {"triton": kernel.triton, "tables": tables, "gradient": imported}
        own["pdl"] = "pdl" in target.features
        own |= kernel.values(uses, target)
        return render(template, {**values, **own})


def launches_file(template: str, target: Target) -> dict[str, str]:
    """What lets launches begin early, by its path, where the target can."""
    return {"kernels/launches.py": render(template, {})} if "pdl" in target.features else {}


def operators_file(template: str, files: Mapping[str, str], widest: int) -> str:
    """What makes operators, in a namespace that depends on all the other `files`."""
    text = "".join(f"{path}\0{files[path]}\0" for path in sorted(files))
    return render(template, {"digest": Text(digest(text)[:12]), "widest": widest})
