"""The model: one class for encoder and decoder, which differ only in the attention mask.

Shapes: T packed tokens, H hidden, K scored positions, V vocabulary rows of this tensor-parallel rank.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedStateDict
from megatron.core.enums import ModelType
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, VocabParallelEmbedding
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_block import TransformerBlock
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn
from torch.nn import functional as F

from megatron_ettin.config.layer_pattern import layer_pattern
from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.objectives import MaskKind
from megatron_ettin.config.parallel import ParallelConfig, padded_vocab_size, stage_layers
from megatron_ettin.model.compiled import fused
from megatron_ettin.model.cross_entropy import scored_cross_entropy
from megatron_ettin.model.layers import block_spec
from megatron_ettin.model.norm import BiasFreeLayerNorm, residual_dtype
from megatron_ettin.model.packed_layout import PackedLayout


class EttinModel(LanguageModule):
    """One pipeline stage of a ModernBERT-shaped encoder or decoder."""

    def __init__(
        self,
        config: TransformerConfig,
        model: ModelConfig,
        parallel: ParallelConfig,
        mask_kind: MaskKind,
        *,
        pp_rank: int,
        transformer_impl: str = "local",
    ) -> None:
        """Build this stage.

        Args:
            config: megatron-core's config of the same run.
            model: shape; ``vocab_size`` must be resolved.
            parallel: layout.
            mask_kind: the objective's attention mask.
            pp_rank: index of this stage.
            transformer_impl: a value of ``--transformer-impl``.
        """
        super().__init__(config=config, pg_collection=ProcessGroupCollection.use_mpu_process_groups())
        stages = parallel.pipeline_model_parallel_size
        self.pre_process = pp_rank == 0
        self.post_process = pp_rank == stages - 1
        self.share_embeddings_and_output_weights = not model.untie_embeddings_and_output_weights
        self.model_type = ModelType.encoder_or_decoder
        self.vocab_size = model.vocab_size
        padded = padded_vocab_size(model.vocab_size, parallel.tensor_model_parallel_size)
        self.first_padded_row = self._local_true_rows(padded)

        if self.pre_process:
            self.embedding = EttinEmbedding(config, padded, self.pg_collection)
        counts = stage_layers(model.num_layers, stages)
        layers = range(sum(counts[:pp_rank]), sum(counts[: pp_rank + 1]))
        self.transformer = TransformerBlock(
            config,
            block_spec(
                transformer_impl,
                layer_pattern(model, mask_kind),
                layers,
                mask_kind,
                fp32_residual=config.fp32_residual_connection,
            ),
            pre_process=self.pre_process,
            post_process=self.post_process,
            pg_collection=self.pg_collection,
        )
        if self.post_process:
            self.head = PredictionHead(config)
            self.output_layer = build_output_layer(
                config, padded, self.pg_collection, uses_embedding=self._uses_embedding
            )
        self.setup_embeddings_and_output_layer()

    def set_input_tensor(self, input_tensor: list[Tensor | None]) -> None:
        """Set the output of the previous stage; called by megatron-core's schedules."""
        self.transformer.set_input_tensor(input_tensor[0])

    def forward(
        self, tokens_T: Tensor, layout: PackedLayout, scored_K: Tensor, labels_K: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Run this stage.

        Args:
            tokens_T: input ids.
            layout: boundaries of the chunks.
            scored_K: indices into T; head and output layer run on these only.
            labels_K: target token at each of them.

        Returns:
            Before the last stage hidden states [T, 1, H]. On it the summed loss and the number of correct predictions
            (see :func:`scored_cross_entropy`), or without labels logits [K, V] of this rank's vocabulary rows.
        """
        embedded = self.embedding(tokens_T) if self.pre_process else None
        hidden = self.transformer(embedded, attention_mask=None, packed_seq_params=layout)
        if not self.post_process:
            return hidden
        if self.config.sequence_parallel:
            # Gather, then select, as ranks have different numbers of scored positions. All ranks compute the same from
            # the full sequence and get the same gradient, of which backward takes this rank's part instead of summing.
            hidden = gather_from_sequence_parallel_region(
                hidden, tensor_parallel_output_grad=False, group=self.tp_group
            )
        head_KH = self.head(hidden[:, 0].index_select(0, scored_K))
        return self._logits(head_KH) if labels_K is None else self._loss(head_KH, labels_K)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[()] = (), metadata: dict[str, Any] | None = None
    ) -> ShardedStateDict:
        """Return the parameters as megatron-core saves them: canonical names, no ``_extra_state``.

        Extra states are specific to a backend (FP8 scales), and every backend reads every checkpoint.
        """
        entries = super().sharded_state_dict(prefix, sharded_offsets, metadata)
        return {name: entry for name, entry in entries.items() if not name.endswith("_extra_state")}

    def _loss(self, head_KH: Tensor, labels_K: Tensor) -> tuple[Tensor, Tensor]:
        bias = self.output_layer.bias
        true_rows = self.first_padded_row
        return scored_cross_entropy(head_KH, self._output_weight, bias, labels_K, self.tp_group, true_rows=true_rows)

    def _logits(self, head_KH: Tensor) -> Tensor:
        logits, _ = self.output_layer(head_KH, weight=self._output_weight)
        if self.first_padded_row < logits.size(-1):
            # Padded rows must not enter the softmax.
            logits[:, self.first_padded_row :] = float("-inf")
        return logits

    @property
    def _output_weight(self) -> Tensor:
        """This rank's rows of the output matrix."""
        owner = self.embedding.word_embeddings if self._uses_embedding else self.output_layer
        weight: Tensor = owner.weight
        return weight

    @property
    def _uses_embedding(self) -> bool:
        """Whether the output layer uses this stage's embedding; otherwise it has a matrix, untied or a tied copy."""
        return bool(self.pre_process and self.share_embeddings_and_output_weights)

    def _local_true_rows(self, padded: int) -> int:
        """Return the number of this rank's vocabulary rows that are not padding."""
        per_rank = padded // self.tp_group.size()
        return min(max(self.vocab_size - self.tp_group.rank() * per_rank, 0), per_rank)


class EttinEmbedding(MegatronModule):
    """Vocabulary-parallel embedding and its norm; positions enter through RoPE only."""

    def __init__(self, config: TransformerConfig, vocab_size: int, groups: ProcessGroupCollection) -> None:
        """Create the table.

        Args:
            config: megatron-core's config.
            vocab_size: rows over all ranks, padded.
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
        self.norm = BiasFreeLayerNorm(
            config, config.hidden_size, config.layernorm_epsilon, output_dtype=residual_dtype(config)
        )

    def forward(self, tokens_T: Tensor) -> Tensor:
        """Return [T, 1, H] ([T / TP, 1, H] under sequence parallelism)."""
        embedded = self.word_embeddings(tokens_T[None])
        if not self.config.sequence_parallel:
            # With reduce-scatter megatron-core already returns the sequence axis first.
            embedded = embedded.transpose(0, 1)
        return self.norm(embedded)


class PredictionHead(MegatronModule):
    """Dense, exact GELU and norm, replicated on the tensor-parallel ranks: small, and run on scored positions only."""

    def __init__(self, config: TransformerConfig) -> None:
        """Create the dense matrix and the norm."""
        super().__init__(config=config)
        size = config.hidden_size
        device = torch.cuda.current_device()
        self.dense = nn.Linear(size, size, bias=False, device=device, dtype=config.params_dtype)
        self.norm = BiasFreeLayerNorm(unsharded_config(config), size, config.layernorm_epsilon)

    def forward(self, hidden_KH: Tensor) -> Tensor:
        """Return [K, H]."""
        return activate_and_normalize(self.dense(hidden_KH), self.norm.weight, self.norm.eps)


@fused
def activate_and_normalize(hidden_KH: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Exact GELU, then the head's norm."""
    activated = F.gelu(hidden_KH).to(weight.dtype)
    return F.layer_norm(activated, weight.shape, weight, None, eps).to(hidden_KH.dtype)


def build_output_layer(
    config: TransformerConfig, vocab_size: int, groups: ProcessGroupCollection, *, uses_embedding: bool
) -> ColumnParallelLinear:
    """Build the vocabulary-parallel output matrix with its bias.

    Args:
        config: megatron-core's config.
        vocab_size: rows over all ranks, padded.
        groups: process groups.
        uses_embedding: the layer has no matrix, as each call passes the embedding's.
    """
    return ColumnParallelLinear(
        config.hidden_size,
        vocab_size,
        config=unsharded_config(config),
        init_method=config.embedding_init_method,
        bias=True,
        skip_weight_param_allocation=uses_embedding,
        tp_group=groups.tp,
    )


def unsharded_config(config: TransformerConfig) -> TransformerConfig:
    """Return the config of the modules after the gathered sequence, which are PyTorch's with every backend."""
    unsharded = copy.copy(config)
    unsharded.sequence_parallel = False
    unsharded.gradient_accumulation_fusion = False
    return unsharded
