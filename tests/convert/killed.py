"""Kills conversions and goes on with them: a process of its own, which forks one for each try."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from archsmith.compiler.convert import disk, journal, output
from archsmith.compiler.convert.layout import ToLayout
from archsmith.compiler.imported import imported


class Tries:
    """A conversion that is killed, and what is wrong with what it leaves."""

    def __init__(self, package: str, source: str, whole: str, folder: str, shard: str) -> None:
        self.package: Any = imported(Path(package))
        self.source, self.folder = Path(source), Path(folder)
        self.wanted = held(Path(whole))
        self.shard = int(shard)
        self.began = self.folder.with_name("began")
        self.wrong: list[str] = []

    def convert(self) -> None:
        job = ToLayout(self.package, self.source, self.folder, None, self.shard)
        job.begin()
        job.run(lambda count: None)

    def fork(self, prepare: Callable[[], None]) -> int:
        """Start a conversion in a process of its own, which notes each shard that it begins."""
        child = os.fork()
        if child:
            return child
        write = output.Shard.write

        def noted(shard: Any, *arguments: Any) -> dict[str, Any]:
            with self.began.open("a") as file:
                file.write(shard.file + "\n")
            return write(shard, *arguments)

        output.Shard.write = noted  # type: ignore[method-assign]
        prepare()
        try:
            self.convert()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)

    def check(self, title: str) -> None:
        """Look at what a killed process left, and let another finish it."""
        for path in self.folder.iterdir() if self.folder.exists() else ():
            same = self.wanted.get(path.name) == path.read_bytes()
            if not same and path.suffix != disk.PARTIAL and path.name != journal.NAME:
                self.wrong.append(f"{title}: {path.name} is not whole")
        if os.waitpid(self.fork(lambda: None), 0)[1] != 0:
            self.wrong.append(f"{title}: it did not go on")
        elif held(self.folder) != self.wanted:
            self.wrong.append(f"{title}: it ends with {sorted(held(self.folder))}, or other bytes")
        began = self.began.read_text().split()
        if len(began) > len(set(began)) + 1:
            self.wrong.append(f"{title}: more than one file was written twice: {began}")
        self.began.unlink()
        rmtree(self.folder)

    def at_each_step(self) -> int:
        """Kill before each call that makes something last; returns how many there are."""
        for step in range(1, 10**6):
            status = os.waitpid(self.fork(lambda step=step: die_at(step)), 0)[1]  # type: ignore[misc]
            self.check(f"step {step}")
            if status == 0:
                return step - 1
        raise AssertionError("it never ends")

    def at_any_time(self, count: int, seed: int) -> int:
        """Kill at random moments; returns how many were in time."""
        draw = random.Random(seed)
        start = time.perf_counter()
        os.waitpid(self.fork(lambda: None), 0)
        takes = time.perf_counter() - start
        self.check("uninterrupted")
        killed = 0
        for i in range(count):
            child = self.fork(lambda: None)
            time.sleep(draw.random() * takes)
            os.kill(child, signal.SIGKILL)
            killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
            self.check(f"kill {i}")
        return killed


def die_at(step: int) -> None:
    """Have this process killed before the call of that number."""
    left = step

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return called

    for name in ("fsync", "replace", "unlink", "mkdir", "open"):
        setattr(os, name, counted(getattr(os, name)))


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def main() -> None:
    *where, count, seed = sys.argv[1:]
    torch.set_num_threads(1)
    tries = Tries(*where)
    steps = tries.at_each_step()
    killed = tries.at_any_time(int(count), int(seed))
    print(json.dumps({"steps": steps, "killed": killed, "wrong": tries.wrong}))


if __name__ == "__main__":
    main()
