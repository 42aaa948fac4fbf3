"""Bugs of the authors of our passes: each pass as it is, and then what its author got wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from archsmith.compiler.ir.lines import print_graph
from archsmith.compiler.rewrite.passes import ModelPass, Pass
from archsmith.compiler.rewrite.rewriter import ModelRewriter, Rewriter

from . import fusion_bugs as fusion
from . import latent_bugs as latent
from . import weight_bugs as weights
from .mutant import DECODE, VALUE, Change, found

SPEC = """\
archsmith: 1
name: authored
dtype: bfloat16
vocab_size: 97
hidden_size: 40
max_positions: 512
layers: [{repeat: 2, block: dense}, {repeat: 1, block: sparse}]
blocks:
  dense: [{norm: rms, use: attention}, {norm: shifted, use: mlp}, {norm: rms, use: biased}]
  sparse: [{norm: rms, use: latent}, {norm: shifted, use: experts}]
parts:
  rms: {kind: rms_norm, eps: 1.0e-5}
  shifted: {kind: rms_norm, eps: 1.0e-5, offset: 1}
  attention: {kind: gqa, heads: 6, kv_heads: 3, head_dim: 8, qk_norm: rms, bias: qkv, window: 3,
              rope: {theta: 10000, interleaved: true}}
  mlp: {kind: swiglu, width: 50}
  biased: {kind: swiglu, width: 50, bias: true, clamp: 0.5}
  latent: {kind: mla, heads: 4, kv_lora_rank: 6, qk_nope_head_dim: 10, qk_rope_head_dim: 6,
           v_head_dim: 10, norm: rms, rope: {theta: 500, interleaved: true}}
  experts: {kind: moe, experts: 8, top_k: 3, width: 9, shared: 1, router: {score: sigmoid,
            selection_bias: true, groups: 4, top_groups: 2, normalize: true, scale: 2.5}}
final_norm: rms
head: {tied: false}
"""
"""hidden_size is heads * v_head_dim, and kv_lora_rank qk_rope_head_dim: their probes differ."""


@dataclass(frozen=True)
class Authored(Pass):
    """A pass that does what it does, and then something wrong where it did something."""

    real: Pass
    change: Change

    def run(self, rewriter: Rewriter) -> None:
        raise NotImplementedError

    def applications(self, rewriter: Rewriter) -> Iterator[None]:
        before = list(print_graph(rewriter.graph)), dict(rewriter.block.params)
        for _ in self.real.applications(rewriter):
            rewriter.commit()
        if (list(print_graph(rewriter.graph)), rewriter.block.params) != before:
            self.change(rewriter)
        yield


@dataclass(frozen=True)
class AuthoredModel(ModelPass):
    """The same of a pass of the whole model."""

    real: ModelPass
    change: Callable[[ModelRewriter], None]

    def run(self, rewriter: ModelRewriter) -> None:
        self.real.run(rewriter)
        self.change(rewriter)


@dataclass(frozen=True)
class Bug:
    """What an author got wrong, in which pass, after which others, and what is said of it."""

    change: Callable[..., None]
    pass_: str
    after: str = ""
    says: str = VALUE
    phases: tuple[str, ...] = ()
    """Those of the pass, where there are none here."""

    def __str__(self) -> str:
        return f"{self.pass_}-{self.change.__name__.replace('_', '-')}"


def of_real(bug: Bug, real: Pass | ModelPass) -> Pass | ModelPass:
    """The pass as its author wrote it."""
    base: Any = AuthoredModel if isinstance(real, ModelPass) else Authored
    names = {"name": str(bug), "phases": bug.phases or real.phases, "effect": real.effect}
    made: Pass | ModelPass = type(str(bug), (base,), names)(real, bug.change)
    return made


# defer-add


def forget_what_is_yet_to_be_added(rewriter: ModelRewriter) -> None:
    for head in rewriter.of("head"):
        total = found(head, "add")[0]
        head.replace(total.results, [head.graph.operands(total)[0]])


def start_with_the_embedding_twice(rewriter: ModelRewriter) -> None:
    for embed in rewriter.of("embed"):
        x = embed.graph.outputs[0]
        embed.returns(x, x)


def return_the_sum_for_the_rest(rewriter: ModelRewriter) -> None:
    for layer in rewriter.layers():
        x = layer.graph.outputs[0]
        layer.returns(x, x)


def add_the_stream_to_itself(rewriter: ModelRewriter) -> None:
    for layer in rewriter.of("dense"):
        total = found(layer, "add")[0]
        x = layer.graph.operands(total)[0]
        layer.replace(total.results, [layer.op.add(x, x)])


def held(ends: str, change: Callable[..., Any]) -> Change:
    return fusion.held(ends, change, change.__name__)


LAYER = fusion.of("{layer}", "0")
LAYER.__name__ = "the_first_layers_weights"
EXPERT = fusion.of("{expert}", "{layer}")
EXPERT.__name__ = "the_layers_number_for_the_experts"
GATE_UP = "fuse-gate-up"
PACKED = "fuse-expert-gate-up"
WEIGHTS = VALUE + "|no longer read|more than once|was not read before"

BUGS = (
    Bug(latent.pack_in_another_order, "compress-kv"),
    Bug(latent.pack_before_the_norm, "compress-kv"),
    Bug(latent.pack_before_the_rotation, "compress-kv"),
    Bug(latent.pack_nothing_of_the_rotated_key, "compress-kv"),
    Bug(latent.shift_the_packed_row, "compress-kv"),
    Bug(latent.turn_the_context_again, "compress-kv"),
    Bug(latent.heads_of_the_query_rolled, "absorb-attention", "compress-kv"),
    Bug(latent.heads_of_the_result_rolled, "absorb-attention", "compress-kv"),
    Bug(latent.drop_the_rotated_part_of_the_query, "absorb-attention", "compress-kv"),
    Bug(latent.scale_by_the_width_of_the_row, "absorb-attention", "compress-kv"),
    Bug(latent.forget_the_scale_of_the_rotations, "absorb-attention", "compress-kv"),
    Bug(latent.exponentials_of_two, "absorb-attention", "compress-kv"),
    Bug(
        latent.take_the_value_from_the_end_of_the_row,
        "absorb-attention",
        "compress-kv",
        VALUE + "|its replacement",
    ),
    Bug(latent.let_slots_leak_that_nobody_wrote, "absorb-attention", "compress-kv"),
    Bug(fusion.gate_and_up_exchanged, GATE_UP),
    Bug(fusion.activate_gate_and_up, GATE_UP),
    Bug(held("gate_up", fusion.interleaved), GATE_UP),
    Bug(held("gate_up", fusion.both_gates), GATE_UP, says=WEIGHTS),
    Bug(held("gate_up", LAYER), GATE_UP, says=WEIGHTS),
    Bug(fusion.gate_by_up, "fuse-gated-activation", GATE_UP),
    Bug(held("experts_gate_up", fusion.exchange_in_each_expert), "pack-experts", PACKED),
    Bug(held("experts_gate_up", fusion.roll), "pack-experts", PACKED),
    Bug(held("experts_down", fusion.roll), "pack-experts", PACKED),
    Bug(held("experts_down", fusion.repeat_the_first_expert), "pack-experts", PACKED, WEIGHTS),
    Bug(held("experts_down", EXPERT), "pack-experts", PACKED, WEIGHTS),
    Bug(held("experts_gate_up", LAYER), "pack-experts", PACKED, WEIGHTS),
    Bug(fusion.choose_one_expert_less, "pack-experts", PACKED),
    Bug(fusion.forget_the_factor_of_routed_experts, "pack-experts", PACKED),
    Bug(fusion.keep_all_groups, "pack-experts", PACKED),
    Bug(held("o", fusion.transpose_what_only_looks_square), "compress-kv", says=" is not "),
    Bug(fusion.drop_a_bias_that_starts_at_zero, GATE_UP),
    Bug(fusion.norm_without_the_residual, "fuse-add-rms-norm"),
    Bug(fusion.return_what_was_added_to, "fuse-add-rms-norm"),
    Bug(fusion.exchange_the_sum_and_its_norm, "fuse-add-rms-norm"),
    Bug(fusion.add_the_same_twice, "fuse-add-rms-norm"),
    Bug(fusion.forget_the_offset, "fuse-add-rms-norm"),
    Bug(fusion.eps_of_another_norm, "fuse-add-rms-norm"),
    Bug(fusion.eps_of_another_norm, "fuse-add-rms-norm", phases=("train",)),
    Bug(fusion.exchange_the_sum_and_its_norm, "fuse-add-rms-norm", phases=DECODE),
    Bug(forget_what_is_yet_to_be_added, "defer-add", says="differs by"),
    Bug(start_with_the_embedding_twice, "defer-add", says="differs by"),
    Bug(return_the_sum_for_the_rest, "defer-add", says="differs by|no longer read"),
    Bug(add_the_stream_to_itself, "defer-add", says="differs by"),
    Bug(held("qkv", weights.in_another_order), "fuse-qkv"),
    Bug(held("qkv_bias", weights.in_another_order), "fuse-qkv"),
    Bug(weights.a_part_of_the_wrong_rows, "fuse-qkv"),
    Bug(held("q_norm", weights.as_it_was), "permute-rope"),
    Bug(held("k_bias", weights.as_it_was), "permute-rope"),
    Bug(weights.turn_neighbours_in_the_key_alone, "permute-rope"),
    Bug(weights.weigh_the_shared_as_the_routed, "fold-shared-experts"),
    Bug(held("experts_down", fusion.roll), "fold-shared-experts", PACKED),
    Bug(weights.choose_by_softmax, "fuse-routing"),
    Bug(weights.choose_without_the_bias, "fuse-routing", says=WEIGHTS),
    Bug(held("up", weights.without_the_gain), "fold-norm-gain", says=WEIGHTS),
    Bug(held("up", weights.without_the_offset), "fold-norm-gain"),
    Bug(held("router", weights.without_the_gain), "fold-norm-gain"),
    Bug(held("kv_b", weights.not_turned), "rotate-latent", "compress-kv,fold-norm-gain"),
    Bug(held("kv_a", weights.not_turned), "rotate-latent", "compress-kv,fold-norm-gain"),
)
