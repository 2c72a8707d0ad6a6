"""Names and row orders of all tensors, in checkpoints and in Hugging Face models: one table, used in both directions.

Canonical names are those of a checkpoint, independent of its parallel layout; Hugging Face names are those of
``ModernBertForMaskedLM`` (encoder) and ``ModernBertDecoderForCausalLM`` (decoder). An output matrix that is tied to the
embedding has no entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.objectives import RELEASED_OBJECTIVES, is_encoder

RowOrder = Literal["same", "heads", "vocabulary"]
"""Order of a canonical tensor's rows relative to Hugging Face's.

heads: canonical rows are q, k and v of head 0, then of head 1, ...; Hugging Face's are all q, all k, all v.
vocabulary: canonical rows may be padded at the end for tensor parallelism; Hugging Face's are not.
"""

OUTPUT_BIAS = "output_layer.bias"
OUTPUT_MATRIX = "output_layer.weight"
HF_OUTPUT_MATRIX = "decoder.weight"
"""Name of the output matrix; files usually omit it where it is tied to the embedding."""


@dataclass(frozen=True)
class TensorName:
    """A row of the table: one canonical tensor and the Hugging Face tensors it corresponds to."""

    canonical: str
    hf_names: tuple[str, ...]
    """Their rows, concatenated, are those of the canonical tensor in Hugging Face's order."""
    shape: tuple[int, ...]
    """Of the canonical tensor, without vocabulary padding."""
    rows: RowOrder = "same"

    @property
    def hf_shape(self) -> tuple[int, ...]:
        """Shape of each Hugging Face tensor."""
        return (self.shape[0] // len(self.hf_names), *self.shape[1:])


def tensor_names(objective: str, model: ModelConfig) -> tuple[TensorName, ...]:
    """Return all tensors of a model, from input to output."""
    assert objective in RELEASED_OBJECTIVES, objective
    vocabulary, hidden = model.vocab_size, model.hidden_size
    head = "head" if is_encoder(objective) else "lm_head"
    output_matrix = TensorName(OUTPUT_MATRIX, (HF_OUTPUT_MATRIX,), (vocabulary, hidden), "vocabulary")
    return (
        TensorName(
            "embedding.word_embeddings.weight",
            ("model.embeddings.tok_embeddings.weight",),
            (vocabulary, hidden),
            "vocabulary",
        ),
        TensorName("embedding.norm.weight", ("model.embeddings.norm.weight",), (hidden,)),
        *(name for layer in range(model.num_layers) for name in _layer_names(objective, model, layer)),
        TensorName("transformer.final_layernorm.weight", ("model.final_norm.weight",), (hidden,)),
        TensorName("head.dense.weight", (f"{head}.dense.weight",), (hidden, hidden)),
        TensorName("head.norm.weight", (f"{head}.norm.weight",), (hidden,)),
        *((output_matrix,) if model.untie_embeddings_and_output_weights else ()),
        TensorName(OUTPUT_BIAS, ("decoder.bias",), (vocabulary,), "vocabulary"),
    )


def base_names(names: Sequence[TensorName]) -> tuple[TensorName, ...]:
    """Return the tensors of ``ModernBertModel`` and ``ModernBertDecoderModel``: all but head and output."""
    prefix = "model."
    return tuple(
        replace(name, hf_names=tuple(hf_name.removeprefix(prefix) for hf_name in name.hf_names))
        for name in names
        if name.hf_names[0].startswith(prefix)
    )


def _layer_names(objective: str, model: ModelConfig, layer: int) -> tuple[TensorName, ...]:
    canonical, hf = f"transformer.layers.{layer}", f"model.layers.{layer}"
    hidden, ffn = model.hidden_size, model.ffn_hidden_size
    joined = (f"{hf}.attn.Wqkv.weight",)
    split = tuple(f"{hf}.attn.{part}_proj.weight" for part in "qkv")
    attention_norm = TensorName(f"{canonical}.input_layernorm.weight", (f"{hf}.attn_norm.weight",), (hidden,))
    return (
        # Layer 0 has no attention norm: its input is the output of the embedding's norm.
        *((attention_norm,) if layer > 0 else ()),
        TensorName(
            f"{canonical}.self_attention.linear_qkv.weight",
            joined if is_encoder(objective) else split,
            (3 * hidden, hidden),
            "heads",
        ),
        TensorName(f"{canonical}.self_attention.linear_proj.weight", (f"{hf}.attn.Wo.weight",), (hidden, hidden)),
        TensorName(f"{canonical}.pre_mlp_layernorm.weight", (f"{hf}.mlp_norm.weight",), (hidden,)),
        # In both: the first half of the rows is the GELU gate, the second half the value.
        TensorName(f"{canonical}.mlp.linear_fc1.weight", (f"{hf}.mlp.Wi.weight",), (2 * ffn, hidden)),
        TensorName(f"{canonical}.mlp.linear_fc2.weight", (f"{hf}.mlp.Wo.weight",), (hidden, ffn)),
    )


def row_blocks(name: TensorName, num_heads: int) -> tuple[list[range], ...]:
    """Return which rows of the canonical tensor make up each Hugging Face tensor, in the order of ``name.hf_names``.

    Both directions of the conversion, and copying without reading, use this order.
    """
    if name.rows == "heads":
        size = name.shape[0] // (3 * num_heads)
        starts = [(3 * head + part) * size for part in range(3) for head in range(num_heads)]
        blocks = [range(start, start + size) for start in starts]
    else:
        size = name.shape[0] // len(name.hf_names)
        blocks = [range(start, start + size) for start in range(0, name.shape[0], size)]
    each = len(blocks) // len(name.hf_names)
    return tuple(blocks[i : i + each] for i in range(0, len(blocks), each))


def tensor_to_hf(name: TensorName, tensor: Tensor, num_heads: int) -> tuple[Tensor, ...]:
    """Return the Hugging Face tensors of a canonical one, whose vocabulary rows may be padded."""
    shape = (min(len(tensor), name.shape[0]), *tensor.shape[1:]) if name.rows == "vocabulary" else tuple(tensor.shape)
    assert shape == name.shape, (name.canonical, tuple(tensor.shape), name.shape)
    return tuple(_select_rows(tensor, blocks) for blocks in row_blocks(name, num_heads))


def tensor_from_hf(name: TensorName, parts: Sequence[Tensor], num_heads: int, *, padded_vocab_size: int) -> Tensor:
    """Return the canonical tensor of Hugging Face's; vocabulary rows are padded with zeros, which training masks."""
    for part in parts:
        assert tuple(part.shape) == name.hf_shape, (name.canonical, tuple(part.shape), name.hf_shape)
    if name.rows != "heads":
        missing = padded_vocab_size - name.shape[0] if name.rows == "vocabulary" else 0
        padding = [parts[0].new_zeros((missing, *name.shape[1:]))] if missing > 0 else []
        return torch.cat((*parts, *padding)) if len(parts) + len(padding) > 1 else parts[0]
    tensor = parts[0].new_empty(name.shape)
    for part, blocks in zip(parts, row_blocks(name, num_heads), strict=True):
        for block, rows in zip(blocks, part.split([len(block) for block in blocks]), strict=True):
            tensor[block.start : block.stop] = rows
    return tensor


def _select_rows(tensor: Tensor, blocks: Sequence[range]) -> Tensor:
    rows = [tensor[block.start : block.stop] for block in blocks]
    return rows[0] if len(rows) == 1 else torch.cat(rows)
