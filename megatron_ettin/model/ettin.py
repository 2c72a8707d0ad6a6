"""The model: one class for encoder and decoder; the mask kind is the whole difference.

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
        self.norm = BiasFreeLayerNorm(
            config, config.hidden_size, config.layernorm_epsilon, output_dtype=residual_dtype(config)
        )

    def forward(self, tokens_T: Tensor) -> Tensor:
        """Return [T, 1, H] ([T / TP, 1, H] under sequence parallelism)."""
        embedded = self.word_embeddings(tokens_T[None])
        if not self.config.sequence_parallel:
            # With reduce-scatter core returns the sequence first already.
            embedded = embedded.transpose(0, 1)
        return self.norm(embedded)


class PredictionHead(MegatronModule):
    """Dense, exact GELU, norm; whole on every tensor-parallel rank (it is small and sees scored positions only)."""

    def __init__(self, config: TransformerConfig) -> None:
        """Create the dense matrix and the norm, which see all scored tokens on every rank."""
        super().__init__(config=config)
        whole = for_whole_activations(config)
        size = config.hidden_size
        device = torch.cuda.current_device()
        self.dense = nn.Linear(size, size, bias=False, device=device, dtype=config.params_dtype)
        self.norm = BiasFreeLayerNorm(whole, size, config.layernorm_epsilon)

    def forward(self, hidden_KH: Tensor) -> Tensor:
        """Return [K, H]."""
        return activate_and_normalize(self.dense(hidden_KH), self.norm.weight, self.norm.eps)


@fused
def activate_and_normalize(hidden_KH: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Exact GELU, then the head's norm."""
    activated = F.gelu(hidden_KH).to(weight.dtype)
    return F.layer_norm(activated, weight.shape, weight, None, eps).to(hidden_KH.dtype)


def build_output_layer(
    config: TransformerConfig, vocab_size: int, groups: ProcessGroupCollection, *, weight_elsewhere: bool
) -> ColumnParallelLinear:
    """Build the vocabulary-parallel output matrix with its bias.

    Args:
        config: megatron-core's config.
        vocab_size: rows over all ranks, padded.
        groups: process groups.
        weight_elsewhere: weights are tied and this stage holds the embedding, whose matrix is handed in at each call.
    """
    return ColumnParallelLinear(
        config.hidden_size,
        vocab_size,
        config=for_whole_activations(config),
        init_method=config.embedding_init_method,
        bias=True,
        skip_weight_param_allocation=weight_elsewhere,
        tp_group=groups.tp,
    )


def for_whole_activations(config: TransformerConfig) -> TransformerConfig:
    """Return a config for modules after the sequence was gathered, which are PyTorch's whatever layers are from."""
    whole = copy.copy(config)
    whole.sequence_parallel = False
    whole.gradient_accumulation_fusion = False
    return whole


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
            mask_kind: who sees whom.
            pp_rank: which stage this is.
            transformer_impl: what layers are built from, as --transformer-impl says.
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
                config, padded, self.pg_collection, weight_elsewhere=self._takes_embedding
            )
        self.setup_embeddings_and_output_layer()

    def set_input_tensor(self, input_tensor: list[Tensor | None]) -> None:
        """Take what the stage before sent; called by megatron-core's schedules."""
        self.transformer.set_input_tensor(input_tensor[0])

    def forward(
        self, tokens_T: Tensor, layout: PackedLayout, scored_K: Tensor, labels_K: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Run this stage.

        Args:
            tokens_T: input ids.
            layout: where the chunks lie.
            scored_K: indices into T whose output is wanted; head and output layer run on these only.
            labels_K: the right token at each of them.

        Returns:
            Before the last stage hidden states [T, 1, H]. On it the summed loss and the number of right tokens (see
            :func:`scored_cross_entropy`), or without labels logits [K, V] of this rank's part of the vocabulary.
        """
        embedded = self.embedding(tokens_T) if self.pre_process else None
        hidden = self.transformer(embedded, attention_mask=None, packed_seq_params=layout)
        if not self.post_process:
            return hidden
        if self.config.sequence_parallel:
            # Gather, then select: scored positions fall unevenly on the ranks. Every rank goes on with the whole
            # sequence and gets the same gradient for it, so backward takes this rank's part instead of summing.
            hidden = gather_from_sequence_parallel_region(
                hidden, tensor_parallel_output_grad=False, group=self.tp_group
            )
        head_KH = self.head(hidden[:, 0].index_select(0, scored_K))
        return self._logits(head_KH) if labels_K is None else self._loss(head_KH, labels_K)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[()] = (), metadata: dict[str, Any] | None = None
    ) -> ShardedStateDict:
        """Return the parameters as megatron-core saves them: canonical names, no ``_extra_state``.

        Extra states belong to a backend (FP8 scales); a checkpoint holds what every backend can read.
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
            # Rows that only fill the vocabulary up to the tensor-parallel size must not enter the softmax.
            logits[:, self.first_padded_row :] = float("-inf")
        return logits

    @property
    def _output_weight(self) -> Tensor:
        """This rank's rows of the output matrix."""
        holder = self.embedding.word_embeddings if self._takes_embedding else self.output_layer
        weight: Tensor = holder.weight
        return weight

    @property
    def _takes_embedding(self) -> bool:
        """Whether the output layer is handed this stage's embedding; else it holds a matrix, its own or a tied copy."""
        return bool(self.pre_process and self.share_embeddings_and_output_weights)

    def _local_true_rows(self, padded: int) -> int:
        """How many of this rank's vocabulary rows are real."""
        per_rank = padded // self.tp_group.size()
        return min(max(self.vocab_size - self.tp_group.rank() * per_rank, 0), per_rank)
