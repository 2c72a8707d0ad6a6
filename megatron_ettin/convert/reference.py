"""A reference forward pass over the canonical tensors, written for clarity, not for speed.

It shares no code with the trainer's model or with transformers' classes, and both are tested against it.

Shapes: S positions of one document, H hidden, N heads, D head size, I width of the gated MLP, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from megatron_ettin.config.layer_pattern import LayerAttention, layer_pattern
from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.objectives import MaskKind

TensorSource = Callable[[str], Tensor]
"""Returns a tensor by its canonical name; called once per tensor, from input to output."""

Observer = Callable[[str, int, Tensor], None]
"""Called with (place, document, hidden states [S, H]), from input to output."""


@torch.no_grad()
def reference_logits(
    source: TensorSource,
    model: ModelConfig,
    mask_kind: MaskKind,
    documents: Sequence[Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    observe: Observer = lambda place, document, hidden_SH: None,
) -> list[Tensor]:
    """Return each document's logits [S, V], computed separately: no padding, no packing.

    All documents pass a layer before the next is loaded, so the weights of one layer are in memory at a time.

    Args:
        source: the weights. Vocabulary rows may be padded; the logits have no padding.
        model: shape with ``vocab_size`` resolved.
        mask_kind: bidirectional or causal attention.
        documents: token ids [S] of each document.
        dtype: type of all computation but RoPE's angles, which are fp32 in training and in the released classes.
        observe: called after the embedding, each layer, the final norm and the head.
    """

    def weight(name: str) -> Tensor:
        return source(name).to(dtype)

    def show(place: str) -> None:
        for document, hidden_SH in enumerate(hidden):
            observe(place, document, hidden_SH)

    table_VH, norm_H = weight("embedding.word_embeddings.weight")[: model.vocab_size], weight("embedding.norm.weight")
    hidden = [_norm(table_VH[tokens_S], norm_H, model) for tokens_S in documents]
    show("embedding")
    for i, attention in enumerate(layer_pattern(model, mask_kind)):
        layer = {name: weight(f"transformer.layers.{i}.{name}") for name in _layer_weights(i)}
        hidden = [_layer(hidden_SH, layer, attention, model, mask_kind) for hidden_SH in hidden]
        show(f"layer {i}")
    norm_H = weight("transformer.final_layernorm.weight")
    hidden = [_norm(hidden_SH, norm_H, model) for hidden_SH in hidden]
    show("final norm")
    dense_HH, norm_H = weight("head.dense.weight"), weight("head.norm.weight")
    hidden = [_norm(F.gelu(hidden_SH @ dense_HH.T), norm_H, model) for hidden_SH in hidden]
    show("head")
    untied = model.untie_embeddings_and_output_weights
    output_VH = weight("output_layer.weight")[: model.vocab_size] if untied else table_VH
    bias_V = weight("output_layer.bias")[: model.vocab_size]
    return [hidden_SH @ output_VH.T + bias_V for hidden_SH in hidden]


def _layer_weights(layer: int) -> tuple[str, ...]:
    names = (
        "self_attention.linear_qkv.weight",
        "self_attention.linear_proj.weight",
        "pre_mlp_layernorm.weight",
        "mlp.linear_fc1.weight",
        "mlp.linear_fc2.weight",
    )
    return names if layer == 0 else ("input_layernorm.weight", *names)


def _layer(
    hidden_SH: Tensor, layer: dict[str, Tensor], attention: LayerAttention, model: ModelConfig, mask_kind: MaskKind
) -> Tensor:
    # Layer 0 has no attention norm: its input is the output of the embedding's norm.
    first_norm_H = layer.get("input_layernorm.weight")
    normed_SH = hidden_SH if first_norm_H is None else _norm(hidden_SH, first_norm_H, model)
    qkv_rows = normed_SH @ layer["self_attention.linear_qkv.weight"].T
    q_NSD, k_NSD, v_NSD = qkv_rows.view(-1, model.num_attention_heads, 3, model.head_size).permute(2, 1, 0, 3)
    scores_NSS = _rotate(q_NSD, attention.rope_base) @ _rotate(k_NSD, attention.rope_base).transpose(1, 2)
    scores_NSS = (scores_NSS / model.head_size**0.5).masked_fill(
        ~visible_keys(len(hidden_SH), attention.window, mask_kind), -torch.inf
    )
    attended_SH = (scores_NSS.softmax(dim=-1) @ v_NSD).transpose(0, 1).flatten(1)
    hidden_SH = hidden_SH + attended_SH @ layer["self_attention.linear_proj.weight"].T

    normed_SH = _norm(hidden_SH, layer["pre_mlp_layernorm.weight"], model)
    gate_SI, value_SI = (normed_SH @ layer["mlp.linear_fc1.weight"].T).chunk(2, dim=-1)
    return hidden_SH + (F.gelu(gate_SI) * value_SI) @ layer["mlp.linear_fc2.weight"].T


def _norm(hidden_SH: Tensor, weight_H: Tensor, model: ModelConfig) -> Tensor:
    return F.layer_norm(hidden_SH, weight_H.shape, weight_H, eps=model.norm_epsilon)


def visible_keys(length: int, window: tuple[int, int] | None, mask_kind: MaskKind) -> Tensor:
    """Return [S, S] booleans: whether the query of a row attends to the key of a column."""
    position_S = torch.arange(length)
    back_SS = position_S[:, None] - position_S[None, :]
    visible_SS = back_SS >= 0 if mask_kind == "causal" else torch.ones_like(back_SS, dtype=torch.bool)
    if window is not None:
        left, right = window
        visible_SS = visible_SS & (back_SS <= left) & (back_SS >= -right)
    return visible_SS


def _rotate(x_NSD: Tensor, base: float) -> Tensor:
    """Rotate the pairs (x[i], x[i + D/2]) of position s by the angle s * base ** (-2i / D) (RoPE, arXiv 2104.09864)."""
    length, size = x_NSD.shape[1:]
    frequency = 1.0 / base ** (torch.arange(0, size, 2).float() / size)
    angle = torch.outer(torch.arange(length).float(), frequency)
    cos, sin = angle.cos().to(x_NSD.dtype), angle.sin().to(x_NSD.dtype)
    first, second = x_NSD.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
