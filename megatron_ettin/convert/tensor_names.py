"""Names and row orders of every tensor, here and at Hugging Face: one table, read in both directions.

Ours are the canonical names of a checkpoint, whatever its layout; theirs are those of ``ModernBertForMaskedLM`` (an
encoder) and ``ModernBertDecoderForCausalLM`` (a decoder). An output matrix that is tied to the embedding has no entry
of its own.
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
"""How the rows of a tensor of ours lie to theirs.

heads: ours come head by head (q, k and v of head 0, then of head 1, ...), theirs are all q, all k, all v.
vocabulary: ours may be padded at the end for tensor parallelism, theirs are not.
"""

OUTPUT_BIAS = "output_layer.bias"
OUTPUT_MATRIX = "output_layer.weight"
THEIR_OUTPUT_MATRIX = "decoder.weight"
"""Their name for the output matrix; files usually leave it out where it is the embedding."""


@dataclass(frozen=True)
class TensorName:
    """One tensor of ours and what it is called there."""

    ours: str
    theirs: tuple[str, ...]
    """The tensors whose rows, put under each other, are ours (in their order)."""
    shape: tuple[int, ...]
    """Ours, without vocabulary padding."""
    rows: RowOrder = "same"

    @property
    def their_shape(self) -> tuple[int, ...]:
        """Shape of each of theirs."""
        return (self.shape[0] // len(self.theirs), *self.shape[1:])


def tensor_names(objective: str, model: ModelConfig) -> tuple[TensorName, ...]:
    """Return every tensor of a model, input to output."""
    assert objective in RELEASED_OBJECTIVES, objective
    vocabulary, hidden = model.vocab_size, model.hidden_size
    head = "head" if is_encoder(objective) else "lm_head"
    output_matrix = TensorName(OUTPUT_MATRIX, (THEIR_OUTPUT_MATRIX,), (vocabulary, hidden), "vocabulary")
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
    """Return what ``ModernBertModel`` and ``ModernBertDecoderModel`` hold: all but head and output."""
    prefix = "model."
    return tuple(
        replace(name, theirs=tuple(theirs.removeprefix(prefix) for theirs in name.theirs))
        for name in names
        if name.theirs[0].startswith(prefix)
    )


def _layer_names(objective: str, model: ModelConfig, layer: int) -> tuple[TensorName, ...]:
    ours, theirs = f"transformer.layers.{layer}", f"model.layers.{layer}"
    hidden, ffn = model.hidden_size, model.ffn_hidden_size
    joined = (f"{theirs}.attn.Wqkv.weight",)
    split = tuple(f"{theirs}.attn.{part}_proj.weight" for part in "qkv")
    attention_norm = TensorName(f"{ours}.input_layernorm.weight", (f"{theirs}.attn_norm.weight",), (hidden,))
    return (
        # Layer 0 follows the embedding's norm directly and has none of its own.
        *((attention_norm,) if layer > 0 else ()),
        TensorName(
            f"{ours}.self_attention.linear_qkv.weight",
            joined if is_encoder(objective) else split,
            (3 * hidden, hidden),
            "heads",
        ),
        TensorName(f"{ours}.self_attention.linear_proj.weight", (f"{theirs}.attn.Wo.weight",), (hidden, hidden)),
        TensorName(f"{ours}.pre_mlp_layernorm.weight", (f"{theirs}.mlp_norm.weight",), (hidden,)),
        # Both sides: the first half of the rows passes the GELU, the second half multiplies.
        TensorName(f"{ours}.mlp.linear_fc1.weight", (f"{theirs}.mlp.Wi.weight",), (2 * ffn, hidden)),
        TensorName(f"{ours}.mlp.linear_fc2.weight", (f"{theirs}.mlp.Wo.weight",), (hidden, ffn)),
    )


def row_blocks(name: TensorName, num_heads: int) -> tuple[list[range], ...]:
    """Return, for each of their tensors in the order of ``name.theirs``, which rows of ours are its rows.

    This is the one statement of how rows are regrouped; both directions read it.
    """
    if name.rows == "heads":
        size = name.shape[0] // (3 * num_heads)
        starts = [(3 * head + part) * size for part in range(3) for head in range(num_heads)]
        blocks = [range(start, start + size) for start in starts]
    else:
        size = name.shape[0] // len(name.theirs)
        blocks = [range(start, start + size) for start in range(0, name.shape[0], size)]
    each = len(blocks) // len(name.theirs)
    return tuple(blocks[i : i + each] for i in range(0, len(blocks), each))


def convert_to_theirs(name: TensorName, tensor: Tensor, num_heads: int) -> tuple[Tensor, ...]:
    """Return their tensors, in the order of ``name.theirs``, from ours (vocabulary rows may be padded)."""
    shape = (min(len(tensor), name.shape[0]), *tensor.shape[1:]) if name.rows == "vocabulary" else tuple(tensor.shape)
    assert shape == name.shape, (name.ours, tuple(tensor.shape), name.shape)
    return tuple(_take(tensor, blocks) for blocks in row_blocks(name, num_heads))


def convert_to_ours(name: TensorName, parts: Sequence[Tensor], num_heads: int, *, padded_vocab_size: int) -> Tensor:
    """Return our tensor from theirs; vocabulary rows are filled up with zeros (which training masks) when asked for."""
    for part in parts:
        assert tuple(part.shape) == name.their_shape, (name.ours, tuple(part.shape), name.their_shape)
    if name.rows != "heads":
        missing = padded_vocab_size - name.shape[0] if name.rows == "vocabulary" else 0
        filling = [parts[0].new_zeros((missing, *name.shape[1:]))] if missing > 0 else []
        return torch.cat((*parts, *filling)) if len(parts) + len(filling) > 1 else parts[0]
    tensor = parts[0].new_empty(name.shape)
    for part, blocks in zip(parts, row_blocks(name, num_heads), strict=True):
        for block, rows in zip(blocks, part.split([len(block) for block in blocks]), strict=True):
            tensor[block.start : block.stop] = rows
    return tensor


def _take(tensor: Tensor, blocks: Sequence[range]) -> Tensor:
    taken = [tensor[block.start : block.stop] for block in blocks]
    return taken[0] if len(taken) == 1 else torch.cat(taken)
