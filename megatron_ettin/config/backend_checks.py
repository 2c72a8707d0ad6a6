"""What must hold between the choice of kernels and the rest of a run; what the machine has is known only later."""

from __future__ import annotations

from megatron_ettin.config.backend import TRANSFORMER_ENGINE
from megatron_ettin.config.fields import refuse, spell
from megatron_ettin.config.run import RunConfig

_FP8_MULTIPLE = 16
"""Sides of an FP8 product are multiples of this (Transformer Engine's requirement)."""


def check_backend(run: RunConfig) -> None:
    """Refuse kernels that do not fit each other or the shape.

    Raises:
        ConfigError: names the flag, its value and the rule.
    """
    backend, parallel = run.backend, run.parallel
    if run.training.device == "cpu" and backend.transformer_impl == TRANSFORMER_ENGINE:
        refuse(run, "transformer_impl", "runs on CUDA devices only; got --device cpu")
    if parallel.overlap_param_gather and not (parallel.overlap_grad_reduce and parallel.use_distributed_optimizer):
        refuse(run, "overlap_param_gather", "needs --use-distributed-optimizer and --overlap-grad-reduce")
    if backend.recompute_num_layers and backend.recompute_granularity != "full":
        refuse(run, "recompute_num_layers", "belongs to --recompute-granularity full")
    if backend.fp8_format:
        _check_fp8(run)
        return
    for name in ("first_last_layers_bf16", "fp8_param_gather"):
        if getattr(backend, name):
            refuse(run, name, "belongs to --fp8-format")


def _check_fp8(run: RunConfig) -> None:
    backend = run.backend
    if backend.transformer_impl == "local":
        refuse(run, "fp8_format", f"needs Transformer Engine's layers; got {spell(run, 'transformer_impl')}")
    if not run.training.bf16:
        refuse(run, "fp8_format", "needs --bf16, which everything outside the FP8 products computes in")
    if backend.first_last_layers_bf16 and backend.fp8_recipe == "delayed":
        refuse(run, "first_last_layers_bf16", f"needs another recipe than {spell(run, 'fp8_recipe')}")
    if backend.fp8_param_gather and not run.parallel.use_distributed_optimizer:
        refuse(run, "fp8_param_gather", "needs --use-distributed-optimizer, which gathers the weights")
    tp = run.parallel.tensor_model_parallel_size
    for name in ("hidden_size", "ffn_hidden_size"):
        if getattr(run.model, name) % (_FP8_MULTIPLE * tp):
            split = spell(run, "tensor_model_parallel_size")
            rule = f"must leave a multiple of {_FP8_MULTIPLE} to every tensor-parallel rank; got {split}"
            refuse(run, name, f"with {spell(run, 'fp8_format')} {rule}")
