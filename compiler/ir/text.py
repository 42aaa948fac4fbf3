"""The text form of a model, as `parse_model` reads it back."""

from __future__ import annotations

import json

from .lines import print_graph
from .model import Block, Model


def print_model(model: Model) -> str:
    lines = [f"model {json.dumps(model.name)} : {model.dtype}"]
    lines += [f"droppable {json.dumps(pattern)}" for pattern in model.droppable]
    runs = [name if count == 1 else f"{name} * {count}" for name, count in model.schedule]
    lines.append(f"schedule {', '.join(runs)}")
    lines += [f"draft {', '.join(model.draft)}"] if model.draft else []
    return "\n".join(lines) + "\n\n" + "\n".join(map(print_block, model.blocks.values()))


def print_block(block: Block) -> str:
    lines = [f"block {block.name}"]
    for name, param in block.params.items():
        lines.append(f"  param %{name} = {param.program} : {param.type}")
    lines += [f"  unused {json.dumps(name)}" for name in block.unused]
    lines += [f"  cache {name} : {rows}" for name, rows in block.caches.items()]
    for phases, graph in block.graphs.items():
        lines.append(f"  graph {', '.join(phases)}")
        lines += [f"    {line}" for line in print_graph(graph)]
    return "\n".join(lines) + "\n"
