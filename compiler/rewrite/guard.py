"""The guard: a plugin's code runs within limits, and whatever it raises comes out as one error.

Both limits hold in the main thread only. Time is limited by a signal, where the system has interval
timers; it cannot end a call of compiled code that never comes back to the interpreter. Memory is
limited by the size of the address space, where the system says what is in use.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from ..errors import ArchsmithError
from ..spec.diagnostics import escape

try:
    import resource
except ImportError:  # a system without limits
    resource = None  # type: ignore[assignment]

T = TypeVar("T")

_LONGEST = 2000  # characters of what a plugin's error says
_AGAIN = 0.05  # seconds from one reminder to the next
_IN_USE = Path("/proc/self/statm")


class Contained(Exception):
    """What a plugin's code did wrong, in words; its cause is what was raised."""


class _Expired(BaseException):
    """Time is up; no `except Exception` takes it."""


@dataclass
class Guard:
    """Runs the code of one plugin, within `seconds` for all calls together."""

    seconds: float
    memory: int
    """Bytes more than are in use when a call begins."""
    _taken: float = 0.0

    def call(self, run: Callable[[], T]) -> T:
        """What `run` returns; raises `Contained`, but lets a user's Ctrl-C through."""
        start = time.monotonic()
        try:
            if threading.current_thread() is not threading.main_thread():
                return run()
            # What a plugin prints is for its author, not for who reads the result of a command.
            with redirect_stdout(sys.stderr), _memory(self.memory):
                return _timed(run, max(self.seconds - self._taken, _AGAIN))
        except KeyboardInterrupt:
            raise
        except _Expired as error:
            raise Contained(f"it ran for more than {self.seconds:g} seconds") from error
        except MemoryError as error:
            raise Contained(f"it wanted more than {self.memory / 2**30:g} GiB of memory") from error
        except BaseException as error:
            raise Contained(said(error)) from error
        finally:
            self._taken += time.monotonic() - start


def said(error: BaseException) -> str:
    """An error in words: its type too, unless it was written for people."""
    try:
        text = str(error)
    except Exception:  # of a plugin's own error
        text = "and cannot say what"
    text = "\n".join(map(escape, text[:_LONGEST].split("\n"))) + "..." * (len(text) > _LONGEST)
    return text if isinstance(error, ArchsmithError) else f"{type(error).__name__}: {text}"


def line(error: BaseException, module: str) -> str:
    """Where in a module an error came from: `file.py:12`, or nothing where it came from another."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [(f.f_code.co_filename, n) for f, n in frames if f.f_globals.get("__name__") == module]
    return f"{Path(lines[-1][0]).name}:{lines[-1][1]}" if lines else ""


def _timed(run: Callable[[], T], seconds: float) -> T:
    """Run, and raise `_Expired` in what runs once time is up, again and again."""
    if not hasattr(signal, "setitimer"):
        return run()
    here, running, start = sys._getframe(), True, time.monotonic()

    def stop(frame: FrameType, event: str, argument: Any) -> Any:
        if running and event in ("call", "line"):
            raise _Expired
        return stop

    def expire(number: int, frame: FrameType | None) -> None:
        if not running:
            return
        # A bare `except:` may take what is raised here: then the line that follows raises it.
        while frame is not None and frame is not here:
            frame.f_trace = stop
            frame = frame.f_back
        sys.settrace(stop)
        raise _Expired

    tracing = sys.gettrace()
    handler = signal.signal(signal.SIGALRM, expire)
    rest, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    try:
        try:
            return run()
        finally:
            running = False
    finally:
        if rest:  # another's timer goes on
            rest = max(rest - (time.monotonic() - start), 1e-3)
        signal.setitimer(signal.ITIMER_REAL, rest, interval)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
        sys.settrace(tracing)


@contextmanager
def _memory(more: int) -> Iterator[None]:
    """Let the process have so many bytes more than it has, where the system can say and hold it."""
    if resource is None or not _IN_USE.exists():
        yield
        return
    had, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(_IN_USE.read_text().split()[0]) * resource.getpagesize() + more
    bounds = [limit, *(bound for bound in (had, most) if bound != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(bounds), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (had, most))
