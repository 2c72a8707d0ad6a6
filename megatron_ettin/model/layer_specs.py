"""What each transformer layer is made of, as megatron-core ModuleSpecs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor
from torch.nn import functional as F

from megatron_ettin.config.attention import LayerAttention, MaskKind
from megatron_ettin.model.attention import PackedDotProductAttention, PackedSelfAttention
from megatron_ettin.model.norm import BiasFreeLayerNorm

ResidualAdd = Callable[[tuple[Tensor, Tensor | None], Tensor, float], Tensor]

_CORE_MASK = {"bidirectional": AttnMaskType.no_mask, "causal": AttnMaskType.causal}


def local_block_spec(
    pattern: Sequence[LayerAttention], layers: range, mask_kind: MaskKind
) -> TransformerBlockSubmodules:
    """Return the spec of one pipeline stage, built from PyTorch and megatron-core's parallel layers.

    Args:
        pattern: attention of every layer of the model.
        layers: the layers (0-based) that this stage holds.
        mask_kind: the objective's mask.
    """
    specs = [local_layer_spec(pattern[index], mask_kind, first=index == 0) for index in layers]
    return TransformerBlockSubmodules(layer_specs=specs, layer_norm=BiasFreeLayerNorm)


def local_layer_spec(attention: LayerAttention, mask_kind: MaskKind, *, first: bool) -> ModuleSpec:
    """Return the spec of one layer; the model's first layer has no norm before its attention."""
    mask = _CORE_MASK[mask_kind]
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=IdentityOp if first else BiasFreeLayerNorm,
            self_attention=ModuleSpec(
                module=PackedSelfAttention,
                params={"attn_mask_type": mask, "layer_attention": attention},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=ColumnParallelLinear,
                    core_attention=partial(PackedDotProductAttention, window=attention.window),
                    linear_proj=RowParallelLinear,
                ),
            ),
            self_attn_bda=dropout_add,
            pre_mlp_layernorm=BiasFreeLayerNorm,
            mlp=ModuleSpec(
                module=MLP,
                submodules=MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear),
            ),
            mlp_bda=plain_add,
        ),
    )


def dropout_add(training: bool, fused: bool) -> ResidualAdd:
    """Residual connection after attention: the only place of the architecture that drops.

    megatron-core calls it with (training, fused) and the result with (output and bias, residual, probability).
    """
    return partial(_dropout_add, training)


def plain_add(training: bool, fused: bool) -> ResidualAdd:
    """Residual connection after the MLP, without dropout."""
    return _plain_add


def _dropout_add(training: bool, output: tuple[Tensor, Tensor | None], residual: Tensor, probability: float) -> Tensor:
    return residual + F.dropout(output[0], p=probability, training=training)


def _plain_add(output: tuple[Tensor, Tensor | None], residual: Tensor, probability: float) -> Tensor:
    return residual + output[0]
