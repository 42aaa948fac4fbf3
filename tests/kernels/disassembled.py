"""In which order a kernel's machine code asks for products, waits for them and makes weights."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from archsmith.compiler.emit.aot import Compiled, compile_ahead
from archsmith.compiler.machine.target import Target
from kernels.recorded import FACTS, OLDEST, Ahead, version

# Behind the script that compiles: of each binary what its own tool says, in a file.
DISASSEMBLE = """
import os
facts_of = described

def described(binary):
    facts = facts_of(binary)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    command = [tool, "-sass", "kernel.cubin"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (Path(os.environ["DISASSEMBLED"]) / facts["sha256"]).write_text(told)
    return facts

main()
"""
MAIN = 'if __name__ == "__main__":\n    main()\n'

# Instructions of Hopper, by what they are called here: a product, and one that ends its group; a
# wait until so many groups are left; an exponential; a branch.
CALLED = {
    r"HGMMA\S* (?!.*gsb0)": "product",
    r"HGMMA\S* .*gsb0": "last",
    r"WARPGROUP\.DEPBAR\.LE gsb0, 0x(\d)": "wait",
    r"MUFU\.EX2": "exp2",
    r"BRA": "branch",
}


def orders(
    ahead: Ahead,
    job: str,
    files: Mapping[str, str],
    calls: Sequence[Any],
    target: Target,
    oldest: bool = False,
) -> list[tuple[Compiled, str]]:
    """The facts of what these calls launch, as `Ahead` has them, each with its code's order.

    That is words as `3 product, last, wait 1`, kept by the digests of binaries.
    """
    found = ahead(job, files, calls, target, oldest)
    place = FACTS / version(oldest) / target.name / job / "order.json"
    kept = json.loads(place.read_text()) if place.exists() else {}
    if {made.sha256 for made in found} != set(kept):
        assert ahead.record, f"{place.name} of {job} on {target.name}: `make ahead` compiles"
        kept = _disassembled(ahead, files, calls, target, oldest)
        place.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    return [(made, kept[made.sha256]) for made in found]


def _disassembled(
    ahead: Ahead, files: Mapping[str, str], calls: Sequence[Any], target: Target, oldest: bool
) -> dict[str, str]:
    script = ahead.registry.templates["compile.py"]
    assert MAIN in script
    assert target.triton is not None
    with tempfile.TemporaryDirectory(prefix="archsmith-order-") as folder:
        environment = {"DISASSEMBLED": folder} | ({"PYTHONPATH": str(OLDEST)} if oldest else {})
        script = script.replace(MAIN, DISASSEMBLE)
        compile_ahead(files, calls, target.triton, script, environment)
        return {path.name: _order(path.read_text()) for path in Path(folder).iterdir()}


def _order(text: str) -> str:
    """What is called by its name, in the order of the code; what follows itself, once."""
    words: list[tuple[str, int]] = []
    for line in text.splitlines():
        for pattern, called in CALLED.items():
            if found := re.search(rf"\*/\s+(?:@\S+ )?{pattern}", line):
                word = " ".join([called, *found.groups()])
                count = words.pop()[1] if words and words[-1][0] == word else 0
                words.append((word, count + 1))
                break
    return ", ".join(f"{count} {word}" if count > 1 else word for word, count in words)
