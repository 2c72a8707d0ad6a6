"""Residual connections, in the form in which megatron-core's layer asks for them.

megatron-core calls each with (training, fused) and the result with (output and bias, residual, probability); no linear
layer of the architecture has a bias.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from megatron_ettin.model.fused import fused

ResidualAdd = Callable[[tuple[Tensor, Tensor | None], Tensor, float], Tensor]


def dropout_add(training: bool, fused: bool) -> ResidualAdd:
    """Residual connection after attention: the only place of the architecture that drops."""
    return partial(_dropout_add, training)


def plain_add(training: bool, fused: bool) -> ResidualAdd:
    """Residual connection after the MLP, without dropout."""
    return _plain_add


def _dropout_add(training: bool, output: tuple[Tensor, Tensor | None], residual: Tensor, probability: float) -> Tensor:
    if not training or probability == 0.0:
        return residual + output[0]
    return _drop_and_add(output[0], residual, probability)


def _plain_add(output: tuple[Tensor, Tensor | None], residual: Tensor, probability: float) -> Tensor:
    return residual + output[0]


@fused
def _drop_and_add(output: Tensor, residual: Tensor, probability: float) -> Tensor:
    return residual + F.dropout(output, p=probability, training=True)
