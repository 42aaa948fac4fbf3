"""Text and tokens, by the files of a checkpoint: its tokenizer.json, and what ends a text."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .errors import ArchsmithError, EnvironmentMissing

FILE = "tokenizer.json"
MOST_BYTES = 2**26  # twice what the largest published ones have
MOST_FIELDS_BYTES = 2**20
HALF = "\ufffd"
"""What a decoder writes for bytes that are no character, or not yet."""


class Tokenizer:
    """A tokenizer.json, in which nothing is trusted.

    Raises `ArchsmithError` where the file is not there, too large or damaged, and
    `EnvironmentMissing` without the library that reads it.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        """Read the file of the first of these folders that has one."""
        try:
            library: Any = importlib.import_module("tokenizers")
        except ImportError as error:
            hint = 'pip install "archsmith[text]"'
            raise EnvironmentMissing(f"--prompt needs tokenizers ({error}): {hint}") from None
        self.path = _first(folders, FILE)
        if self.path is None:
            where = " and ".join(map(str, folders))
            raise ArchsmithError(f"there is no {FILE} in {where}; give --tokens, or add one")
        data = _read(self.path, MOST_BYTES)
        self._tokenizer: Any = self._guarded(library.Tokenizer.from_buffer, data)
        self._guarded(self._tokenizer.no_padding)
        self._guarded(self._tokenizer.no_truncation)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, with what the tokenizer itself puts before and behind it."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ArchsmithError(f"the prompt is not UTF-8: {text!r}") from None
        ids: list[int] = self._guarded(lambda: self._tokenizer.encode(text).ids)
        if not ids:
            raise ArchsmithError(f"{self.path} makes no token of the prompt {text!r}")
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        for token in tokens:
            if self._guarded(self._tokenizer.id_to_token, token) is None:
                raise ArchsmithError(f"{self.path} has no token {token}, which the model chose")
        text: str = self._guarded(self._tokenizer.decode, list(tokens))
        return text

    def pieces(self, prompt: Sequence[int], tokens: Iterable[int]) -> Iterator[str]:
        """What each token adds to the text behind a prompt, as soon as it is whole characters.

        A token's text may hang on those before it, and a character may take several tokens. What is
        still half a character in the end is left out.
        """
        held = list(prompt)  # all of it: a part might begin in the middle of a character
        told = len(held)
        for token in tokens:
            held.append(token)
            added = self._added(held, told)
            if added and added[-1] != HALF:
                yield added
                # The last piece stays, for the next token to stand behind.
                held, told = held[told:], len(held) - told
        if rest := self._added(held, told).rstrip(HALF):
            yield rest

    def _added(self, held: Sequence[int], told: int) -> str:
        """What the tokens past the first `told` add to the text of those."""
        before, after = self.decode(held[:told]), self.decode(held)
        if after.startswith(before):
            return after[len(before) :]
        # A byte that is of no character spoils those before it, which are told already.
        return self.decode(held[told:])

    def _guarded(self, function: Any, *arguments: Any) -> Any:
        """Call the library; what fails in it, be it a panic, is said of the file."""
        try:
            return function(*arguments)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic is no Exception
            said = " ".join(str(error).split())[:200]
            raise ArchsmithError(f"{self.path} is no tokenizer that can be used: {said}") from None


def ends(folders: Sequence[Path]) -> tuple[int, ...]:
    """The tokens that end a text: `eos_token_id` of generation_config.json, else of config.json.

    Of the first folder that says it; none where none does. Raises `ArchsmithError` where a file is
    damaged, or says no token.
    """
    for folder in folders:
        for name in ("generation_config.json", "config.json"):
            path = _first([folder], name)
            value = None if path is None else _fields(path).get("eos_token_id")
            if value is None:
                continue
            tokens = value if isinstance(value, list) else [value]
            if not all(type(token) is int and 0 <= token < 2**31 for token in tokens):
                raise ArchsmithError(f"{path}: eos_token_id is a token or several, not {value!r}")
            return tuple(tokens)
    return ()


def _first(folders: Sequence[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _fields(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(_read(path, MOST_FIELDS_BYTES))
    except (ValueError, RecursionError) as error:
        raise ArchsmithError(f"{path} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ArchsmithError(f"{path} holds no JSON object")
    return fields


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise ArchsmithError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > most:
        raise ArchsmithError(f"{path} is larger than {most >> 20} MiB")
    return data
