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

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5) -> None:
        """Create the weight, all ones.

        Args:
            config: gives the parameter type and says whether activations are split over the sequence.
            hidden_size: width of the normalised axis.
            eps: added to the variance.
        """
        super().__init__()
        device = torch.cuda.current_device()
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype, device=device))
        self.eps = eps
        # Under sequence parallelism each rank sees part of the tokens; core sums the gradients of what is so marked.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise the last axis of ``hidden``, any leading shape."""
        return normalize(hidden, self.weight, self.eps)


@fused
def normalize(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise the last axis to mean 0 and variance 1 and scale it; no bias."""
    return F.layer_norm(hidden, weight.shape, weight, None, eps)
