"""Peers of attention: what they are given is the same attention, by what they say of themselves."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.machinery import ModuleSpec
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.plugins import Registry
from bench import __main__ as command
from bench.attention import attention
from bench.cases import Case
from bench.compare import OURS, PYTORCH, compare, installed_peers
from bench.peers.sdpa import _attend
from measuring import inside
from torch import Tensor
from torch.nn.attention import SDPBackend

SCALE = 0.3
LENGTHS = (128, 70)


def operands(heads: int, groups: int, key: int, value: int) -> tuple[Tensor, ...]:
    draws = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, n, h, key, generator=draws) for n, h in ((1, heads), (128, groups)))
    return q, k, k[..., :value], torch.tensor(LENGTHS)[:, None] - 1


def plain(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, scale: float = SCALE) -> Tensor:
    """One token a row, which sees its first `lengths` slots."""
    k, v = (x.repeat_interleave(q.shape[-2] // x.shape[-2], -2) for x in (k, v))
    scores = torch.einsum("bthk,bshk->bths", q, k) * scale
    seen = torch.arange(k.shape[1]) < lengths[:, None]
    share = scores.masked_fill(~seen[:, None, None], float("-inf")).softmax(-1)
    return torch.einsum("bths,bshv->bthv", share, v)


def whole(pages: Tensor, table: Tensor) -> Tensor:
    return pages[table.long()].flatten(1, 2)


def flash_mla(q: Any, pages: Any, table: Any, lengths: Any, value: int, *_: Any, **o: Any) -> Any:
    assert (o["causal"], pages.shape[1:3], table.dtype) == (True, (64, 1), torch.int32)
    k = whole(pages, table)
    return plain(q, k, k[..., :value], lengths, o["softmax_scale"]), None


def with_cache(q: Any, k: Any, v: Any, qv: Any, cache_seqlens: Any, **options: Any) -> Tensor:
    q, k = (q, k) if qv is None else (torch.cat((qv, q), -1), torch.cat((v, k), -1))
    return plain(q, k, v, cache_seqlens, options["softmax_scale"])


def of_rows(
    q: Any, k: Any, v: Any, *, seqused_k: Any = None, q_v: Any = None, **options: Any
) -> Tensor:
    """vLLM's FlashAttention: queries one behind the other, keys too where they are no cache's."""
    begins, batch = options["cu_seqlens_q"], len(options["cu_seqlens_q"]) - 1
    assert (begins.dtype, begins.tolist()) == (
        torch.int32,
        [row * options["max_seqlen_q"] for row in range(batch + 1)],
    )
    assert (options["fa_version"], options["causal"]) == (3, True)
    if seqused_k is None:
        assert options["cu_seqlens_k"] is begins
        q, k, v = (x.unflatten(0, (batch, -1)) for x in (q, k, v))
        assert k.shape[1] == options["max_seqlen_k"]
        return causal(q, k, v, options["softmax_scale"]).flatten(0, 1)
    assert "cu_seqlens_k" not in options
    assert (seqused_k.dtype, k.shape[:2]) == (torch.int32, (batch, options["max_seqlen_k"]))
    given = (x if x is None else x.unflatten(0, (batch, -1)) for x in (q, q_v))
    q, q_v = given
    out = with_cache(q, k, v, q_v, seqused_k, softmax_scale=options["softmax_scale"])
    return out.flatten(0, 1)


def of_batch(q: Any, k: Any, v: Any, **options: Any) -> tuple[Tensor, None]:
    """FlashAttention's own, of a whole sequence."""
    assert options["causal"]
    return causal(q, k, v, options["softmax_scale"]), None


def causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    each = [
        plain(q[:, t, None], k, v, torch.full((len(q),), t + 1), scale) for t in range(q.shape[1])
    ]
    return torch.cat(each, 1)


def vllms(
    q: Any, k: Any, v: Any, out: Any, lse: Any, table: Any, lengths: Any, *o: Any, is_mla: bool
) -> None:
    between, splits, scale, page = o
    assert is_mla == (k.shape[-2] == 1)
    assert (between.shape[2], between.shape[3], page) == (splits, v.shape[-1] + 1, 64)
    out.copy_(plain(q[:, None], whole(k, table), whole(v, table), lengths, scale)[:, 0])


def sglangs(
    q: Any, k: Any, v: Any, out: Any, starts: Any, used: Any, *o: Any, has_mla: bool
) -> None:
    _, _, splits, most, scale, *_ = o
    assert has_mla == (k.shape[-2] == 1)
    assert (splits <= most).all()
    for row, (first, end) in enumerate(pairwise(starts)):
        mine, length = used[first:end], (end - first)[None]
        out[row] = plain(q[row, None, None], k[mine][None], v[mine][None], length, scale)[0, 0]


LATENT = {"get_mla_metadata": lambda: (None, None), "flash_mla_with_kvcache": flash_mla}
FAKES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "flash_mla": ("flash_mla", LATENT),
    "flash_mla of vllm": ("vllm.third_party.flashmla.flash_mla_interface", LATENT),
    "flash_attention": (
        "flash_attn_interface",
        {"flash_attn_func": of_batch, "flash_attn_with_kvcache": with_cache},
    ),
    "flash_attention of vllm": (
        "vllm.vllm_flash_attn.flash_attn_interface",
        {"flash_attn_varlen_func": of_rows, "FA3_AVAILABLE": True},
    ),
    "vllm": (
        "vllm.v1.attention.ops.triton_decode_attention",
        {"decode_attention_fwd": vllms},
    ),
    "sglang": (
        "sglang.kernels.ops.attention.decode_attention",
        {"decode_attention_fwd": sglangs},
    ),
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Any]:
    """An adapter that finds functions in the place of theirs, which compute what theirs say."""

    def adapter(fake: str) -> Any:
        module, functions = FAKES[fake]
        parts = module.split(".")
        for i, part in enumerate(parts):  # on the disk too, where they are looked for
            monkeypatch.setitem(sys.modules, name := ".".join(parts[: i + 1]), ModuleType(name))
            folder = tmp_path.joinpath(*parts[:i])
            folder.mkdir(exist_ok=True)
            (folder / f"{part}.py").touch()
        top = ModuleSpec(parts[0], None, is_package=True)
        top.submodule_search_locations = [str(tmp_path / parts[0])]
        sys.modules[parts[0]].__spec__ = top
        vars(sys.modules[module]).update(functions)
        card = SimpleNamespace(multi_processor_count=132)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
        return importlib.import_module(f"bench.peers.{fake.partition(' ')[0]}")

    return adapter


@pytest.mark.parametrize("latent", [True, False])
@pytest.mark.parametrize("fake", FAKES)
def test_what_is_given_is_the_same_attention(
    fake: str, latent: bool, asked: Callable[[str], Any]
) -> None:
    adapter = asked(fake)
    rules = {"value_in_key": latent, "window": None, "softcap": None}
    if fake.startswith("flash_mla") and not latent:
        with pytest.raises(ValueError, match="one latent"):
            adapter.attend(scale=SCALE, **rules)
        return
    given = operands(6, 1 if latent else 2, 24, 16)
    arranged, run = adapter.attend(scale=SCALE, **rules)
    found = run(*arranged(*given))
    torch.testing.assert_close(found, plain(*given[:3], torch.tensor(LENGTHS)))
    with pytest.raises(ValueError, match="window"):
        adapter.attend(scale=SCALE, **{**rules, "window": 9})


@pytest.mark.parametrize("fake", ["flash_attention", "flash_attention of vllm"])
def test_whole_sequences(fake: str, asked: Callable[[str], Any]) -> None:
    arranged, run = asked(fake).attend(scale=SCALE, value_in_key=False, window=None)
    draws = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 5, *s, generator=draws) for s in ((6, 24), (2, 24), (2, 16)))
    positions = torch.arange(5).expand(2, 5)
    found = run(*arranged(q, k, v, positions))
    torch.testing.assert_close(found, causal(q, k, v, SCALE))
    if fake.endswith("vllm"):
        with pytest.raises(ValueError, match="no gradients"):
            run(*arranged(q.requires_grad_(), k, v, positions))


def test_vllms_may_hold_none(asked: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = asked("flash_attention of vllm")
    lacks = {"FA3_AVAILABLE": False, "FA3_UNAVAILABLE_REASON": "another card's"}
    vars(sys.modules[FAKES["flash_attention of vllm"][0]]).update(lacks)
    with pytest.raises(ImportError, match="no FlashAttention-3: another card's"):
        adapter.attend(scale=SCALE, value_in_key=False)


def test_pytorchs_own_is_causal() -> None:
    """By another backend than cuDNN's, which a CPU has not."""
    _, run = _attend(SDPBackend.MATH, SCALE)
    draws = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 7, heads, 16, generator=draws) for heads in (4, 2))
    causal = run(q, k, k, torch.arange(7)[None])
    for token in range(7):
        last = q[:, token, None], k, k, torch.tensor([token + 1])
        torch.testing.assert_close(causal[:, token, None], plain(*last))
    with pytest.raises(ValueError, match="begins where"):
        run(q[:, 3:], k, k, torch.arange(3, 7)[None])


def test_every_case_is_somebodys_and_ours(registry: Registry) -> None:
    cases = attention()
    names = [peer.name for peer in installed_peers() if any(map(peer.computes, cases))]
    assert len(names) == 6
    trained = [case for case in cases if case.gradients]
    assert len(trained) == 3
    one, pair = trained[0].calls[0], next(c for c in cases if c.name == trained[0].name)
    # Forward has a product of a key's columns and one of a value's; backward three, and two.
    wide = (4 * 192 + 3 * 128) / (192 + 128)
    assert trained[0].work(one).flops == wide * pair.work(one).flops
    # 128 heads, half of 4,096 by 4,096 scores of 192 and 128 columns, and two operations each.
    assert pair.work(one).flops == pytest.approx(687e9, rel=0.01)


def test_a_value_that_begins_its_key_is_drawn_so(registry: Registry) -> None:
    """Our kernel may read it there."""
    case = next(case for case in attention("float32") if "one latent (V2" in case.name)
    case = replace(case, calls=(Sizes(2, 1, 5),))
    measure, target = partial(inside, registry.templates), registry.targets["h200"]
    (row,) = compare([case], [], registry, target, measure, rounds=1, least=0.0, sets=1).rows
    assert set(row.seconds) == {OURS, PYTORCH}
    assert row.differ[PYTORCH] < 1e-5


def test_the_command_knows_them() -> None:
    given = command._parser().parse_args(["attention", "--case", "decode", "--way", "forward"])
    found: list[Case] = command._cases(given, 141e9)
    names = [case.op.name for case in found]
    assert names == [*["attend"] * 3, *["quantized_attend"] * 2]
