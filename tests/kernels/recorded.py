"""Facts of compiled kernels, kept beside the tests: what has not changed is not compiled again."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from archsmith.compiler.emit.aot import Compiled, compile_ahead
from archsmith.compiler.emit.kernels import launches_file
from archsmith.compiler.machine.target import Target
from archsmith.compiler.plugins import Registry

FACTS = Path(__file__).with_name("facts")
OLDEST = Path(sys.prefix) / "triton-3.6"  # beside the newest, which the environment has
IMPORT = re.compile(r"^from \.(\w+) import", re.MULTILINE)


@dataclass(frozen=True)
class Ahead:
    """Compiles kernels ahead of time, or has what was recorded of the same text and calls."""

    registry: Registry
    record: bool
    """Compile what is missing, and keep it; else what is missing is an AssertionError."""

    def __call__(
        self,
        job: str,
        files: Mapping[str, str],
        calls: Sequence[Any],
        target: Target,
        oldest: bool = False,
    ) -> list[Compiled]:
        """The facts of what these calls launch; `job` is the name that they are kept by."""
        files = self._whole(files, target)
        of = defaultdict(list)
        for call in calls:
            of[call["file"]].append(call)
        found: list[Compiled] = []
        for file in sorted(of):
            place = FACTS / version(oldest) / target.name / job / f"{file}.json"
            digest = self._digest(files, file, of[file], target, oldest)
            kept = json.loads(place.read_text()) if place.exists() else {"digest": None}
            if kept["digest"] != digest:
                assert self.record, f"{place.name} of {job} on {target.name}: `make ahead` compiles"
                kernels = self.compile(files, of[file], target, oldest)
                kept = {"digest": digest, "kernels": [kernel.json() for kernel in kernels]}
                place.parent.mkdir(parents=True, exist_ok=True)
                lines = ",\n".join(json.dumps(kernel) for kernel in kept["kernels"])
                place.write_text(f'{{"digest": "{digest}", "kernels": [\n{lines}\n]}}\n')
            found += [Compiled(**kernel) for kernel in kept["kernels"]]
        return found

    def compile(
        self, files: Mapping[str, str], calls: Sequence[Any], target: Target, oldest: bool = False
    ) -> list[Compiled]:
        """The facts of what these calls launch, compiled now."""
        assert target.triton is not None
        files = self._whole(files, target)
        script = self.registry.templates["compile.py"]
        environment = {"PYTHONPATH": str(OLDEST)} if oldest else {}
        return compile_ahead(files, calls, target.triton, script, environment)

    def _whole(self, files: Mapping[str, str], target: Target) -> dict[str, str]:
        """With what all kernels of a target import, where these are not those of a package."""
        return {**launches_file(self.registry.templates["launches.py"], target), **files}

    def _digest(
        self,
        files: Mapping[str, str],
        file: str,
        calls: Sequence[Any],
        target: Target,
        oldest: bool,
    ) -> str:
        """Of all that decides what is compiled: a file and those it imports, but for operators,
        which compile to nothing."""
        met = {"operators"}
        texts: dict[str, str] = {}
        wanted = [file]
        while wanted:
            stem = wanted.pop()
            if stem not in met:
                met.add(stem)
                texts[stem] = files[f"kernels/{stem}.py"]
                wanted += IMPORT.findall(texts[stem])
        assert target.triton is not None
        said = [texts, calls, dict(target.triton), version(oldest)]
        said.append(self.registry.templates["compile.py"])
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@cache
def version(oldest: bool) -> str:
    """Of Triton, as its distribution says."""
    if not oldest:
        from importlib.metadata import version

        return version("triton")
    assert OLDEST.is_dir(), "`make env` installs the oldest Triton that is supported"
    (found,) = OLDEST.glob("triton-*.dist-info")
    return found.name.removeprefix("triton-").removesuffix(".dist-info")
