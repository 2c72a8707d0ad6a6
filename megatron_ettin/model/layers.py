"""Transformer layers as specs of megatron-core's modules, with the MLP's gate and the residual connections.

Shapes: I width of each half of the gated MLP on this rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor, nn
from torch.nn import functional as F

from megatron_ettin.config.backend import TRANSFORMER_ENGINE
from megatron_ettin.config.layer_pattern import LayerAttention
from megatron_ettin.config.objectives import MaskKind
from megatron_ettin.model.attention import PackedDotProductAttention, PackedSelfAttention
from megatron_ettin.model.compiled import fused
from megatron_ettin.model.norm import BiasFreeLayerNorm, NarrowingIdentity

ResidualAdd = Callable[[tuple[Tensor, Tensor | None], Tensor, float], Tensor]

_CORE_MASK = {"bidirectional": AttnMaskType.no_mask, "causal": AttnMaskType.causal}


def block_spec(
    transformer_impl: str,
    pattern: Sequence[LayerAttention],
    layers: range,
    mask_kind: MaskKind,
    *,
    fp32_residual: bool = False,
) -> TransformerBlockSubmodules:
    """Return the spec of one pipeline stage.

    Args:
        transformer_impl: a value of ``--transformer-impl``; ``auto`` is ``local`` here.
        pattern: attention of every layer of the model.
        layers: the layers (0-based) of this stage.
        mask_kind: the objective's mask.
        fp32_residual: whether the residual stream is wider than the matrix products.
    """
    parts_of = _engine_parts if transformer_impl == TRANSFORMER_ENGINE else _local_parts
    specs = []
    for index in layers:
        parts = parts_of(pattern[index], mask_kind, first=index == 0, fp32_residual=fp32_residual)
        specs.append(_layer_spec(pattern[index], mask_kind, parts))
    return TransformerBlockSubmodules(layer_specs=specs, layer_norm=BiasFreeLayerNorm)


@dataclass(frozen=True)
class _LayerParts:
    """The modules that a layer is built from."""

    input_layernorm: Any
    linear_qkv: Any
    core_attention: Any
    linear_proj: Any
    pre_mlp_layernorm: Any
    linear_fc1: Any
    linear_fc2: Any
    canonical_names: Mapping[str, str] = field(default_factory=dict)
    """Prefix of a parameter name -> its prefix in a checkpoint."""


def _local_parts(attention: LayerAttention, mask_kind: MaskKind, *, first: bool, fp32_residual: bool) -> _LayerParts:
    """Return PyTorch's modules and megatron-core's parallel matrices."""
    return _LayerParts(
        input_layernorm=_input_norm(first, fp32_residual),
        linear_qkv=ColumnParallelLinear,
        core_attention=partial(PackedDotProductAttention, window=attention.window),
        linear_proj=RowParallelLinear,
        pre_mlp_layernorm=BiasFreeLayerNorm,
        linear_fc1=ColumnParallelLinear,
        linear_fc2=RowParallelLinear,
    )


def _engine_parts(attention: LayerAttention, mask_kind: MaskKind, *, first: bool, fp32_residual: bool) -> _LayerParts:
    """Return the modules of Transformer Engine, which must be importable.

    Norms are fused with the matrices that follow, unless the residual stream is fp32: Transformer Engine's fused norm
    computes in the type of its matrix.
    """
    from megatron.core.extensions.transformer_engine import TEColumnParallelLinear, TERowParallelLinear

    from megatron_ettin.model.te_layers import NormedColumnParallelLinear, engine_attention

    core_attention = engine_attention(attention, mask_kind)
    if fp32_residual:
        return _LayerParts(
            input_layernorm=_input_norm(first, fp32_residual),
            linear_qkv=TEColumnParallelLinear,
            core_attention=core_attention,
            linear_proj=TERowParallelLinear,
            pre_mlp_layernorm=BiasFreeLayerNorm,
            linear_fc1=TEColumnParallelLinear,
            linear_fc2=TERowParallelLinear,
        )
    return _LayerParts(
        input_layernorm=IdentityOp,
        linear_qkv=TEColumnParallelLinear if first else NormedColumnParallelLinear,
        core_attention=core_attention,
        linear_proj=TERowParallelLinear,
        pre_mlp_layernorm=IdentityOp,
        linear_fc1=NormedColumnParallelLinear,
        linear_fc2=TERowParallelLinear,
        canonical_names={
            "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
            "mlp.linear_fc1.layer_norm_": "pre_mlp_layernorm.",
        },
    )


def _input_norm(first: bool, fp32_residual: bool) -> type[nn.Module]:
    """Return the module before a layer's attention: the model's first layer has no norm there."""
    if not first:
        return BiasFreeLayerNorm
    return NarrowingIdentity if fp32_residual else IdentityOp


def _layer_spec(attention: LayerAttention, mask_kind: MaskKind, parts: _LayerParts) -> ModuleSpec:
    """Assemble the spec of one layer."""
    attention_parts = SelfAttentionSubmodules(
        linear_qkv=parts.linear_qkv, core_attention=parts.core_attention, linear_proj=parts.linear_proj
    )
    mlp_parts = MLPSubmodules(linear_fc1=parts.linear_fc1, linear_fc2=parts.linear_fc2, activation_func=gated_gelu)
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=parts.input_layernorm,
            self_attention=ModuleSpec(
                module=PackedSelfAttention,
                params={"attn_mask_type": _CORE_MASK[mask_kind], "layer_attention": attention},
                submodules=attention_parts,
            ),
            self_attn_bda=dropout_add,
            pre_mlp_layernorm=parts.pre_mlp_layernorm,
            mlp=ModuleSpec(module=MLP, submodules=mlp_parts),
            mlp_bda=plain_add,
            sharded_state_dict_keys_map=dict(parts.canonical_names),
        ),
    )


@fused
def gated_gelu(halves: Tensor) -> Tensor:
    """Return [..., I]: exact GELU of the first half of the last axis of [..., 2I] times the second half.

    megatron-core's own gate runs either unfused or, fused, with the tanh approximation of GELU, as Transformer
    Engine's does; the architecture has the exact one.
    """
    first, second = torch.chunk(halves, 2, dim=-1)
    return F.gelu(first) * second


def dropout_add(training: bool, fused: bool) -> ResidualAdd:
    """Residual connection after attention, with the only dropout of the architecture."""
    return partial(_dropout_add, training)


def plain_add(training: bool, fused: bool) -> ResidualAdd:
    """Residual connection after the MLP, without dropout."""
    return _plain_add


def _dropout_add(training: bool, output: tuple[Tensor, Tensor | None], residual: Tensor, probability: float) -> Tensor:
    if not training or probability == 0.0:
        return residual + output[0]
    return _drop_and_add(output[0], residual, probability)


def _plain_add(output: tuple[Tensor, Tensor | None], residual: Tensor, probability: float) -> Tensor:
    return residual + output[0]


@fused
def _drop_and_add(output: Tensor, residual: Tensor, probability: float) -> Tensor:
    return residual + F.dropout(output, p=probability, training=True)
