"""LayerNorm without a bias."""

from __future__ import annotations

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn
from torch.nn import functional as F

from megatron_ettin.model.compiled import fused


class BiasFreeLayerNorm(nn.Module):
    """LayerNorm (mean and variance) with a weight only, as every norm of the architecture.

    Built by megatron-core's specs, hence its signature.
    """

    def __init__(
        self,
        config: TransformerConfig,
        hidden_size: int,
        eps: float = 1e-5,
        *,
        output_dtype: torch.dtype | None = None,
    ) -> None:
        """Create the weight, all ones.

        Args:
            config: parameter types, and whether activations are split over the sequence.
            hidden_size: size of the normalised axis.
            eps: added to the variance.
            output_dtype: type of the result; by default that of the matrix products.
        """
        super().__init__()
        device = torch.cuda.current_device()
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=residual_dtype(config), device=device))
        self.eps = eps
        self.output_dtype = output_dtype or config.params_dtype
        # Under sequence parallelism each rank sees part of the tokens; megatron-core sums marked parameters' gradients.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise the last axis of ``hidden``, any leading shape."""
        return normalize(hidden, self.weight, self.eps, self.output_dtype)


@fused
def normalize(hidden: Tensor, weight: Tensor, eps: float, output_dtype: torch.dtype) -> Tensor:
    """Normalise the last axis to mean 0 and variance 1 and scale it, in the weight's type; no bias."""
    return F.layer_norm(hidden.to(weight.dtype), weight.shape, weight, None, eps).to(output_dtype)


class NarrowingIdentity(nn.Module):
    """Replaces the norm that the first layer lacks: casts the residual stream to the type of the matrix products."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5) -> None:
        """Take a norm's arguments, of which only the config's type matters."""
        super().__init__()
        self.output_dtype = config.params_dtype

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``hidden``, any shape."""
        return hidden.to(self.output_dtype)


def residual_dtype(config: TransformerConfig) -> torch.dtype:
    """Return the type of the residual stream, the norms' weights and what pipeline stages exchange."""
    dtype: torch.dtype = torch.float32 if config.fp32_residual_connection else config.params_dtype
    return dtype


def restore_norm_types(model: nn.Module, config: TransformerConfig) -> None:
    """Restore the type of the norms' weights after a conversion of the full model."""
    for module in model.modules():
        if isinstance(module, BiasFreeLayerNorm):
            module.weight.data = module.weight.data.to(residual_dtype(config))
