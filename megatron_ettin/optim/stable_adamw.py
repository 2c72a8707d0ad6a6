"""StableAdamW, the optimizer of ModernBERT and Ettin.

Wortsman et al. 2023 (arXiv:2304.13013), algorithm 2, with fully decoupled weight decay, as in torch-optimi and
ModernBERT's ``src/optimizer.py``. For each parameter at step t (1-based), with gradient g:

    b = beta (1 - beta^(t-1)) / (1 - beta^t)           for both betas, so that no bias correction is needed
    m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
    RMS = sqrt(mean(g^2 / max(v, eps^2)))              over the full parameter, also if it is split over ranks
    r = lr / max(1, RMS)
    p = p (1 - r / max_lr * weight_decay) - r m / (sqrt(v) + eps)

The RMS replaces gradient clipping. Torch's fused AdamW computes the rest, given the betas b, the rate r, the decay
weight_decay / max_lr and a step at which its own bias corrections are 1. So an update is one pass for the RMS, which
stores nothing, and one call of that kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from megatron_ettin.optim.adamw import FusedAdamW, gradient_of, with_gradient

Means = Callable[[Sequence[Tensor], Tensor], Tensor]
"""(stepped tensors, sum over each) -> mean over the full parameter that each tensor is a part of."""

_CORE_CHUNK_ELEMENTS = 1 << 16
"""Values per core that the RMS pass processes at a time; with moments and scratch they fit a cache of 1 MiB."""
_DEVICE_CHUNK_ELEMENTS = 1 << 24
"""The same on other devices: few kernel launches, and 128 MiB of scratch."""


def local_means(tensors: Sequence[Tensor], sums: Tensor) -> Tensor:
    """Return the means if every tensor is a full parameter."""
    sizes = torch.tensor([tensor.numel() for tensor in tensors], dtype=sums.dtype)
    return sums / sizes.to(sums.device, non_blocking=True)


class StableAdamW(FusedAdamW):
    """Steps dense fp32 tensors; the peak learning rate is a group's ``max_lr``, by default the one at construction."""

    means: Means = staticmethod(local_means)
    """Replaced where parameters are split over ranks."""

    def _step_groups(self) -> None:
        stepped = [(group, tensor) for group in self.param_groups for tensor in with_gradient(group)]
        tensors = [tensor for _, tensor in stepped]
        sums = self._ratio_sums()
        divisors = self.means(tensors, sums).sqrt().clamp(min=1.0)
        for (group, tensor), divisor in zip(stepped, divisors.float().unbind(), strict=True):
            betas = (_debiased(group["betas"][0], group["step"]), _debiased(group["betas"][1], group["step"]))
            decay = group["weight_decay"] / group.get("max_lr", self.defaults["lr"])
            # As a tensor, the rate stays on the device, and the host does not wait for it.
            self._run_kernel(group, [tensor], group["lr"] / divisor, betas, decay, steps=math.inf)

    def _ratio_sums(self) -> Tensor:
        """Return the sum of g^2 / max(v, eps^2) over each tensor that has a gradient, [tensors] in float64."""
        scratch = new_scratch([tensor for group in self.param_groups for tensor in with_gradient(group)])
        sums = []
        for group in self.param_groups:
            beta2, floor = _debiased(group["betas"][1], group["step"]), group["eps"] ** 2
            for tensor in with_gradient(group):
                second_moment = self.moments(group, tensor)["exp_avg_sq"]
                sums.append(ratio_sum(gradient_of(tensor), second_moment, beta2, floor, scratch))
        return torch.stack(sums) if sums else torch.empty(0, dtype=torch.float64)


def new_scratch(tensors: Sequence[Tensor]) -> Tensor:
    """Return scratch for the RMS pass over these tensors: two rows of the values processed at a time."""
    if not tensors:
        return torch.empty(2, 0)
    on_cpu = tensors[0].device.type == "cpu"
    chunk = _CORE_CHUNK_ELEMENTS * torch.get_num_threads() if on_cpu else _DEVICE_CHUNK_ELEMENTS
    return tensors[0].new_empty((2, min(chunk, max(tensor.numel() for tensor in tensors))))


def ratio_sum(gradient: Tensor, second_moment: Tensor, beta2: float, floor: float, scratch: Tensor) -> Tensor:
    """Return the sum of g^2 / max(beta2 v + (1 - beta2) g^2, floor) over a tensor, a float64 scalar."""
    parts, size = [], scratch.size(1)
    for slope, moment in zip(gradient.reshape(-1).split(size), second_moment.reshape(-1).split(size), strict=True):
        square, new = scratch[:, : slope.numel()]
        torch.mul(slope, slope, out=square)
        torch.lerp(moment, square, 1.0 - beta2, out=new)
        parts.append(square.div_(new.clamp_min_(floor)).sum())
    return torch.stack(parts).sum(dtype=torch.float64)


def _debiased(beta: float, step: int) -> float:
    """Return the beta whose plain average after ``step`` steps is the bias-corrected average of ``beta``."""
    return float(beta * (1.0 - beta ** (step - 1)) / (1.0 - beta**step))
