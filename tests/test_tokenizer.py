"""Text in and out: whole characters only, and files in which nothing is trusted."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
from archsmith.compiler.cli import main
from archsmith.compiler.errors import ArchsmithError, EnvironmentMissing
from archsmith.compiler.tokenizer import MOST_BYTES, Tokenizer, ends
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Library


def of_bytes() -> Library:
    """A token a byte, as GPT-2 writes them, and one that ends a text."""
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Library(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    return tokenizer


def of_words() -> Library:
    """As Llama 2's: a word begins with its space, which a text's first has not; else bytes."""
    words = ["<unk>", "<s>", *(f"<0x{i:02X}>" for i in range(256)), *"▁abc"]
    vocabulary = {word: i for i, word in enumerate(words)}
    model = models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True)
    tokenizer = Library(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


KINDS = {"bytes": of_bytes, "words": of_words}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in made.items():
        KINDS[kind]().save(str(folder / "tokenizer.json"))
    return made


@pytest.mark.parametrize("kind", KINDS)
@given(
    prompt=st.text("abc é你🙂", min_size=1, max_size=5), text=st.text("abc é你🙂\n", max_size=12)
)
def test_pieces_are_whole_characters(
    kind: str, prompt: str, text: str, folders: dict[str, Path]
) -> None:
    tokenizer = Tokenizer([folders[kind]])
    start, whole = tokenizer.encode(prompt), tokenizer.encode(prompt + text)
    assert whole[: len(start)] == start
    pieces = list(tokenizer.pieces(start, whole[len(start) :]))
    assert "".join(pieces) == text
    assert all(pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_a_piece_comes_with_the_token_that_completes_it(
    kind: str, folders: dict[str, Path]
) -> None:
    tokenizer = Tokenizer([folders[kind]])
    start, whole = tokenizer.encode("a"), tokenizer.encode("a🙂b")
    given = iter(whole[len(start) :])
    pieces = tokenizer.pieces(start, given)
    assert next(pieces) == "🙂"
    assert len(list(given)) == 1  # of five, the last is not yet asked for


def test_half_a_character_is_left_out_in_the_end(folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer([folders["bytes"]])
    tokens = tokenizer.encode("ab🙂")
    assert list(tokenizer.pieces(tokens[:1], tokens[1:4])) == ["b"]
    # What never becomes a character is passed on as soon as another follows.
    assert "".join(tokenizer.pieces(tokens[:1], [tokens[3], tokens[0]])) == "\ufffda"


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_are_no_character_cost_no_text_behind_them(
    kind: str, folders: dict[str, Path]
) -> None:
    """Where bytes stand for characters, one too many makes the whole run of them unreadable."""
    tokenizer = Tokenizer([folders[kind]])
    start, letters = tokenizer.encode("a"), tokenizer.encode("aé")
    stray = tokenizer.encode("aé")[-1]
    tail = tokenizer.encode("abc")[len(start) :]
    given = [*letters[len(start) :], stray, *tail, *letters[len(start) :]]
    assert "".join(tokenizer.pieces(start, given)) == "é\ufffdbcé"
    assert "".join(tokenizer.pieces(start, given[:3])) == "é"


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_of_many_bytes_ends_with_whole_characters(
    kind: str, folders: dict[str, Path]
) -> None:
    tokenizer = Tokenizer([folders[kind]])
    start, whole = tokenizer.encode("a🙂你🙂你"), tokenizer.encode("a🙂你🙂你你b")
    assert list(tokenizer.pieces(start, whole[len(start) :])) == ["你", "b"]


def test_special_tokens_are_not_told(folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer([folders["bytes"]])
    a, b = tokenizer.encode("ab")
    assert "".join(tokenizer.pieces([a], [256, b, 256])) == "b"


def test_the_file_says_what_stands_before_a_text(folders: dict[str, Path]) -> None:
    assert Tokenizer([folders["words"]]).encode("a")[0] == 1
    assert 256 not in Tokenizer([folders["bytes"]]).encode("a")


def test_the_first_folder_that_has_one_is_read(folders: dict[str, Path], tmp_path: Path) -> None:
    for order in ((tmp_path, folders["words"]), (folders["words"], folders["bytes"])):
        assert Tokenizer(order).path == folders["words"] / "tokenizer.json"
    with pytest.raises(ArchsmithError, match=r"no tokenizer\.json in .*; give --tokens"):
        Tokenizer([tmp_path])


def test_padding_and_truncation_are_the_models_business(tmp_path: Path) -> None:
    made = of_bytes()
    made.enable_padding(length=32)
    made.enable_truncation(2)
    made.save(str(tmp_path / "tokenizer.json"))
    assert len(Tokenizer([tmp_path]).encode("abc")) == 3


def test_what_is_no_token(folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer([folders["bytes"]])
    with pytest.raises(ArchsmithError, match=r"has no token 257, which the model chose"):
        list(tokenizer.pieces([0], [257]))
    with pytest.raises(ArchsmithError, match=r"makes no token of the prompt ''"):
        tokenizer.encode("")


def test_a_prompt_that_is_no_text(folders: dict[str, Path]) -> None:
    with pytest.raises(ArchsmithError, match="the prompt is not UTF-8"):
        Tokenizer([folders["bytes"]]).encode(b"\xff bad".decode(errors="surrogateescape"))


def test_damaged_files_are_one_error_in_a_line(tmp_path: Path, folders: dict[str, Path]) -> None:
    """Cut off, or with random bytes in place of others: a tokenizer, or what is wrong with it."""
    draw, file = random.Random(0), tmp_path / "tokenizer.json"
    refused: list[str] = []
    for folder in folders.values():
        whole = (folder / "tokenizer.json").read_bytes()
        for i in range(60):
            data = bytearray(whole)
            for _ in range(3):
                data[draw.randrange(len(data))] = draw.randrange(256)
            file.write_bytes(data[: draw.randrange(len(data))] if i % 3 == 0 else data)
            try:
                tokenizer = Tokenizer([tmp_path])
                tokenizer.decode(tokenizer.encode("ab"))
            except ArchsmithError as error:
                refused.append(str(error))
    assert len(refused) > 60
    assert all(str(file) in said and "\n" not in said for said in refused)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b"[" * 100_000, b'{"model": {"type": "BPE"}}', b"\xff\xfe"]
)
def test_what_is_no_tokenizer(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(ArchsmithError, match=r"is no tokenizer that can be used") as found:
        Tokenizer([tmp_path])
    assert found.value.exit_code == 1
    assert "\n" not in str(found.value)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(ArchsmithError, match="is larger than 64 MiB"):
        Tokenizer([tmp_path])


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(EnvironmentMissing, match=r"pip install \"archsmith\[text\]\""):
        Tokenizer([tmp_path])
    found = CliRunner().invoke(main, ["run", str(tmp_path), "--prompt", "a"])
    assert found.exit_code == 4
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize("options", [[], ["--tokens", "1", "--prompt", "a"]])
def test_tokens_or_a_prompt(options: list[str]) -> None:
    found = CliRunner().invoke(main, ["run", "none", *options])
    assert found.exit_code == 2
    assert "give either --tokens or --prompt" in found.stderr


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, ()),
        ({"config.json": {"eos_token_id": 7}}, (7,)),
        ({"config.json": {"eos_token_id": None}, "generation_config.json": {}}, ()),
        (
            {
                "config.json": {"eos_token_id": 7},
                "generation_config.json": {"eos_token_id": [3, 4]},
            },
            (3, 4),
        ),
    ],
)
def test_what_ends_a_text(
    files: dict[str, dict[str, object]], found: tuple[int, ...], tmp_path: Path
) -> None:
    for name, fields in files.items():
        (tmp_path / name).write_text(json.dumps(fields))
    assert ends([tmp_path / "none", tmp_path]) == found


@pytest.mark.parametrize(
    "text", ['{"eos_token_id": -1}', '{"eos_token_id": [true]}', '{"eos_token_id": "2"}', "[]", "{"]
)
def test_what_says_no_end(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ArchsmithError, match=r"config\.json") as found:
        ends([tmp_path])
    assert "\n" not in str(found.value)
