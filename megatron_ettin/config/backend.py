"""Kernels, precision of matrix products, and activation recomputation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from megatron_ettin.config.options import option, unsupported

SUPPORTED_CORE = "0.16.1"
"""The tested version of megatron-core; CPU placement and optimizer rely on its internals."""

TRANSFORMER_ENGINE = "transformer_engine"

LOGITS_CHUNK_BYTES: Mapping[str, int] = MappingProxyType({"cpu": 1 << 26, "cuda": 1 << 31})
"""Bytes of logits that the loss computes at a time, by device: near cache size, and enough rows to fill a GPU."""


@dataclass(frozen=True)
class BackendConfig:
    """Kernels and memory use; every choice trains the same model and writes the same checkpoint."""

    transformer_impl: str = option(
        "auto",
        "implementation of the layers: PyTorch (local) or NVIDIA's Transformer Engine; auto takes the latter on CUDA "
        "where it can be imported",
        choices=("auto", "local", TRANSFORMER_ENGINE),
    )
    fp8_format: str = option(
        "",
        "compute the layers' matrix products in FP8 with Transformer Engine: 'e4m3', or 'hybrid' with E5M2 gradients",
        choices=("e4m3", "hybrid"),
    )
    fp8_recipe: str = option(
        "tensorwise",
        "scaling of FP8 tensors: by a history of maxima (delayed), the tensor's maximum (tensorwise), or that of each "
        "block (blockwise on Hopper, mxfp8 on Blackwell)",
        choices=("delayed", "tensorwise", "blockwise", "mxfp8"),
    )
    first_last_layers_bf16: bool = option(False, "keep the first and the last layers in bf16")
    num_layers_at_start_in_bf16: int = option(
        1, "number of first layers that --first-last-layers-bf16 keeps in bf16", at_least=0
    )
    num_layers_at_end_in_bf16: int = option(
        1, "number of last layers that --first-last-layers-bf16 keeps in bf16", at_least=0
    )
    fp8_param_gather: bool = unsupported(
        False,
        "keeping the weights in FP8",
        "their fp32 master weights would be copied before the weights are drawn, or be left at zero (blockwise)",
    )
    gradient_accumulation_fusion: bool = option(
        True, "let Transformer Engine's products accumulate into the fp32 gradients; no effect on local layers"
    )
    recompute_granularity: str = option(
        "",
        "recompute activations in backward instead of storing them: those of the MLPs (selective), or all of a layer "
        "but its input (full)",
        choices=("selective", "full"),
    )
    recompute_num_layers: int = option(
        0, "number of first layers of each stage that --recompute-granularity full applies to; 0 is all", at_least=0
    )
    deterministic: bool = option(
        False, "use only kernels that give the same bits in every run; slower on CUDA, always the case on CPUs"
    )


FP8_ROW_MULTIPLE = {"delayed": 16, "tensorwise": 16, "blockwise": 128, "mxfp8": 32}
"""Recipe -> required multiple of the rows of an FP8 product (Transformer Engine's own checks)."""


def row_multiple(backend: BackendConfig) -> int:
    """Return the multiple that the tokens of a micro-batch are padded to."""
    return FP8_ROW_MULTIPLE[backend.fp8_recipe] if backend.fp8_format else 1


def missing_hardware(recipe: str, capability: tuple[int, int]) -> str:
    """Return what a GPU lacks for an FP8 recipe, as a clause of a message; empty where it can run the recipe.

    Args:
        recipe: a value of ``--fp8-recipe``.
        capability: CUDA compute capability, (9, 0) for Hopper.
    """
    if recipe in ("delayed", "tensorwise"):
        return "" if capability >= (8, 9) else "needs FP8 tensor cores: Ada, Hopper or later (compute capability 8.9)"
    if recipe == "blockwise":
        return "" if capability[0] == 9 else "is Hopper's (compute capability 9.0); later GPUs have mxfp8"
    return "" if capability[0] in (10, 11) else "is Blackwell's (compute capability 10.0)"
