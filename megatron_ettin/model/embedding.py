"""Token embedding followed by a norm.

Shapes: T packed tokens, H hidden.
"""

from __future__ import annotations

from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import VocabParallelEmbedding
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from megatron_ettin.model.norm import BiasFreeLayerNorm


class EttinEmbedding(MegatronModule):
    """Vocabulary-parallel lookup and the norm right after it; positions enter through RoPE only."""

    def __init__(self, config: TransformerConfig, vocab_size: int, groups: ProcessGroupCollection) -> None:
        """Create the table.

        Args:
            config: megatron-core's config.
            vocab_size: rows, already padded to the tensor-parallel size.
            groups: process groups.
        """
        super().__init__(config=config)
        self.word_embeddings = VocabParallelEmbedding(
            num_embeddings=vocab_size,
            embedding_dim=config.hidden_size,
            init_method=config.embedding_init_method,
            reduce_scatter_embeddings=config.sequence_parallel,
            config=config,
            tp_group=groups.tp,
        )
        self.norm = BiasFreeLayerNorm(config, config.hidden_size, config.layernorm_epsilon)

    def forward(self, tokens_T: Tensor) -> Tensor:
        """Return [T, 1, H] ([T / TP, 1, H] under sequence parallelism)."""
        embedded = self.word_embeddings(tokens_T[None])
        if not self.config.sequence_parallel:
            # With reduce-scatter core returns the sequence first already.
            embedded = embedded.transpose(0, 1)
        return self.norm(embedded)
