"""megatron-core's TransformerConfig, built from ours; the only place that does."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn import functional as F

from megatron_ettin.config.backend import TRANSFORMER_ENGINE, BackendConfig
from megatron_ettin.config.parallel import ParallelConfig, stage_layers
from megatron_ettin.config.run import RunConfig


def build_core_config(config: RunConfig) -> TransformerConfig:
    """Return megatron-core's config of a run."""
    model, parallel, backend = config.model, config.parallel, config.backend
    with_engine = backend.transformer_impl == TRANSFORMER_ENGINE
    dtype = torch.bfloat16 if config.training.bf16 else torch.float32
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        hidden_dropout=model.attention_output_dropout,
        attention_dropout=0.0,
        normalization="LayerNorm",
        layernorm_epsilon=model.norm_epsilon,
        add_bias_linear=False,
        gated_linear_unit=True,
        activation_func=F.gelu,
        use_te_activation_func=True,  # the spec's activation includes the gate
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        # Only for Transformer Engine's layers; PyTorch's modules get a config without it.
        gradient_accumulation_fusion=with_engine and backend.gradient_accumulation_fusion,
        # Weights are initialised by their global names after building (model/initialization.py). megatron-core's own
        # pass also marks sharded parameters, so it runs without drawing.
        init_method=_leave_as_is,
        output_layer_init_method=_leave_as_is,
        embedding_init_method=_leave_as_is,
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        pipeline_model_parallel_layout=_stage_layout(model.num_layers, parallel),
        # Micro-batches contain no padding, so their lengths differ.
        variable_seq_lengths=parallel.pipeline_model_parallel_size > 1,
        moe_token_dispatcher_type="alltoall",  # megatron-core requires it with the line above, also without experts
        sequence_parallel=parallel.sequence_parallel,
        params_dtype=dtype,
        pipeline_dtype=torch.float32 if config.training.widens_residual else dtype,
        fp32_residual_connection=config.training.widens_residual,
        bf16=config.training.bf16,
        deterministic_mode=backend.deterministic,
        **_recompute_settings(config),
        **_fp8_settings(backend),
        # The loss is a sum; megatron-core divides the gradients by the scored tokens of the global batch.
        calculate_per_token_loss=True,
        # Layer 0 lacks a norm, so layers are saved individually by their numbers.
        hetereogenous_dist_checkpoint=True,
    )


def _recompute_settings(config: RunConfig) -> dict[str, Any]:
    match config.backend.recompute_granularity:
        case "selective":
            return {"recompute_granularity": "selective", "recompute_modules": ["mlp"]}
        case "full":
            layers = config.backend.recompute_num_layers or config.model.num_layers
            # "block" recomputes the first layers of a stage individually, in a stage with fewer all of them.
            return {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": layers}
    return {}


def _fp8_settings(backend: BackendConfig) -> dict[str, Any]:
    if not backend.fp8_format:
        return {}
    settings: dict[str, Any] = {
        "fp8": backend.fp8_format,
        "fp8_recipe": backend.fp8_recipe,
        "first_last_layers_bf16": backend.first_last_layers_bf16,
        "num_layers_at_start_in_bf16": backend.num_layers_at_start_in_bf16,
        "num_layers_at_end_in_bf16": backend.num_layers_at_end_in_bf16,
    }
    if backend.fp8_recipe == "delayed":
        # Scale by the largest value of a tensor's last 1,024 uses, as in Transformer Engine's own recipe.
        settings |= {"fp8_amax_history_len": 1024, "fp8_amax_compute_algo": "max"}
    return settings


def _leave_as_is(weight: Tensor) -> Tensor:
    return weight


def _stage_layout(num_layers: int, parallel: ParallelConfig) -> list[list[str]] | None:
    stages = parallel.pipeline_model_parallel_size
    if stages == 1:
        return None
    layout = [["decoder"] * count for count in stage_layers(num_layers, stages)]
    layout[0].insert(0, "embedding")
    layout[-1].append("loss")
    return layout
