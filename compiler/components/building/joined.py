"""Weights that a checkpoint joins in one tensor, each as its part of that tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...errors import GraphError
from ...ir.dims import Dim, total
from ...ir.model import Block
from ...ir.weights import Indexed, Program, Ref, Slice, Unflatten

Joined = Mapping[str, Sequence[str]]
"""The tensor of a checkpoint -> the tensors whose rows stand in it, in this order."""


def join(block: Block, joined: Joined) -> None:
    """Let what a block reads of a member be a part of the tensor that joins it with others.

    The size of the whole is the sum of its members', so each must be read in the block; a whole of
    which none is read is none of this block's.
    """
    found = {r.name: r for param in block.params.values() for r in param.program.refs()}
    parts: dict[str, Program] = {}
    for whole, members in joined.items():
        missing = [member for member in members if member not in found]
        if len(missing) == len(members):
            continue
        if missing:
            raise GraphError(
                f"{whole} of a checkpoint joins {', '.join(missing)}, which is not there"
            )
        parts |= _parts(whole, [found[member] for member in members])
    for name, param in block.params.items():
        block.params[name] = replace(param, program=_placed(param.program, parts))


def _parts(whole: str, members: Sequence[Ref]) -> dict[str, Program]:
    """The rows of each member within one tensor of all."""
    rows = [member.shape[0] for member in members]
    tensor = Ref(whole, (total(tuple(rows)), *members[0].shape[1:]))
    parts: dict[str, Program] = {}
    start = Dim.of(0)
    for member, length in zip(members, rows, strict=True):
        part = Slice(tensor, 0, start, length)
        if part.shape != member.shape:
            raise GraphError(f"{whole} cannot join {member} and {members[0]}")
        parts[member.name] = part
        start = start + length
    return parts


def _placed(program: Program, parts: Mapping[str, Program]) -> Program:
    match program:
        case Ref(name):
            return parts.get(name, program)
        case Unflatten(of):
            return replace(program, of=_placed(of, parts))
        case Indexed(body):
            return replace(program, body=_placed(body, parts))
    return program
