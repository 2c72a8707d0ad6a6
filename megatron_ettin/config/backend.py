"""What a layer is built from, in which precision its matrices multiply, and what of it is kept for backward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from megatron_ettin.config.options import option

SUPPORTED_CORE = "0.16.1"
"""The megatron-core version that all was checked with: the CPU placement and the optimizer lean on its inside."""

TRANSFORMER_ENGINE = "transformer_engine"

LOGITS_CHUNK_BYTES: Mapping[str, int] = MappingProxyType({"cpu": 1 << 26, "cuda": 1 << 31})
"""Logits that the loss makes at a time, by device: near the cores' caches, and enough rows to fill a GPU."""


@dataclass(frozen=True)
class BackendConfig:
    """Kernels and memory of a run; every choice trains the same model and writes the same checkpoint."""

    transformer_impl: str = option(
        "auto",
        "what layers are built from, PyTorch (local) or NVIDIA's Transformer Engine; auto takes the latter on CUDA "
        "where it can be imported",
        choices=("auto", "local", TRANSFORMER_ENGINE),
    )
    fp8_format: str = option(
        "",
        "multiply the layers' matrices in FP8 with Transformer Engine: 'e4m3', or 'hybrid' with E5M2 gradients",
        choices=("e4m3", "hybrid"),
    )
    fp8_recipe: str = option(
        "tensorwise",
        "how FP8 tensors are scaled: by a history of maxima (delayed), the tensor's maximum (tensorwise), or that of "
        "its blocks (blockwise on Hopper, mxfp8 on Blackwell)",
        choices=("delayed", "tensorwise", "blockwise", "mxfp8"),
    )
    first_last_layers_bf16: bool = option(False, "keep the first and the last layers out of FP8")
    num_layers_at_start_in_bf16: int = option(
        1, "how many first layers --first-last-layers-bf16 keeps out of FP8", at_least=0
    )
    num_layers_at_end_in_bf16: int = option(
        1, "how many last layers --first-last-layers-bf16 keeps out of FP8", at_least=0
    )
    fp8_param_gather: bool = option(
        False, "hold the layers' weights in FP8 and gather them so; needs --use-distributed-optimizer"
    )
    gradient_accumulation_fusion: bool = option(
        True, "let Transformer Engine's products add to the fp32 gradients directly; no effect on local layers"
    )
    recompute_granularity: str = option(
        "",
        "compute activations again in backward instead of keeping them: those of the MLPs (selective), or all of a "
        "layer but its input (full)",
        choices=("selective", "full"),
    )
    recompute_num_layers: int = option(
        0, "first layers of each stage that --recompute-granularity full holds for; 0 takes all", at_least=0
    )
    deterministic: bool = option(
        False, "use only kernels that give the same bits every time; slower on CUDA, on CPUs always so"
    )


FP8_ROW_MULTIPLE = {"delayed": 16, "tensorwise": 16, "blockwise": 128, "mxfp8": 32}
"""Recipe -> what the number of rows of an FP8 product must be a multiple of (Transformer Engine's own checks)."""


def row_multiple(backend: BackendConfig) -> int:
    """Return what the tokens of a micro-batch are filled up to a multiple of."""
    return FP8_ROW_MULTIPLE[backend.fp8_recipe] if backend.fp8_format else 1


def missing_hardware(recipe: str, capability: tuple[int, int]) -> str:
    """Return what a GPU lacks for an FP8 recipe, in words; empty where it can run it.

    Args:
        recipe: as --fp8-recipe names it.
        capability: CUDA compute capability, (9, 0) for Hopper.
    """
    if recipe in ("delayed", "tensorwise"):
        return "" if capability >= (8, 9) else "needs FP8 tensor cores: Ada, Hopper or later (compute capability 8.9)"
    if recipe == "blockwise":
        return "" if capability[0] == 9 else "is Hopper's (compute capability 9.0); later GPUs have mxfp8"
    return "" if capability[0] in (10, 11) else "is Blackwell's (compute capability 10.0)"
