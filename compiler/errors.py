"""Everything archsmith raises on purpose, and the exit code each kind ends a command with."""

from __future__ import annotations

from typing import ClassVar


class ArchsmithError(Exception):
    """A failure that the command line prints without a traceback."""

    exit_code: ClassVar[int] = 1


class GraphError(ArchsmithError):
    """A graph, a weight program or its text breaks a rule of the IR."""


class PluginError(ArchsmithError):
    """A plugin cannot be loaded, or clashes with another."""

    exit_code = 4


class ProofError(ArchsmithError):
    """A pass or the emitted package computes something else than the graph it came from."""

    exit_code = 3


class DamagedError(ArchsmithError):
    """A converted checkpoint is not, to the byte, what was written."""

    exit_code = 3


class ExportError(ArchsmithError):
    """A tool that is no part of archsmith cannot lower the graph to another form."""

    exit_code = 3


class EnvironmentMissing(ArchsmithError):
    """Something the command needs is not installed."""

    exit_code = 4


class OutputError(ArchsmithError):
    """A package cannot be written: the disk, a permission, or a file its owner edited."""

    exit_code = 5
