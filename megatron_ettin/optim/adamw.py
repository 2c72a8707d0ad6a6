"""AdamW by torch's fused kernel, the base class of all optimizers here."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from megatron_ettin.optim.core_state import advance_groups, from_core_state, set_group_steps, to_core_state

Group = dict[str, Any]
"""A torch parameter group: ``params``, their settings and, under ``step``, the number of steps made."""


class FusedAdamW(torch.optim.AdamW):
    """Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2, for dense fp32 tensors on CPU or CUDA.

    A subclass of ``torch.optim.AdamW``, the only class of torch that megatron-core's distributed optimizer accepts.
    """

    @classmethod
    def over(cls, groups: list[Group]) -> Self:
        """Return an optimizer over existing groups, which contain all settings.

        Torch's constructor refuses them: the shards of a distributed optimizer are views.
        """
        optimizer = cls([{"params": []}])
        optimizer.param_groups = groups
        set_group_steps(groups, 0)
        for group in groups:
            for tensor in group["params"]:
                optimizer.state[tensor] = optimizer._new_state(group, tensor)
        return optimizer

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all tensors that have a gradient; the others keep their state, but the step counts for them too."""
        assert closure is None, "the gradients exist already"
        advance_groups(self.param_groups)
        self._step_groups()

    def state_dict(self) -> dict[str, Any]:
        """Return torch's state dict with the step where megatron-core expects it."""
        return to_core_state(super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict with the step in either place."""
        state_dict, steps = from_core_state(state_dict)
        super().load_state_dict(state_dict)
        set_group_steps(self.param_groups, steps)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Torch's Adam would look for a step next to every tensor's moments here.
        torch.optim.Optimizer.__setstate__(self, state)

    def _step_groups(self) -> None:
        for group in self.param_groups:
            if tensors := with_gradient(group):
                self._step_adamw(group, tensors)

    def _step_adamw(self, group: Group, tensors: list[Tensor]) -> None:
        self._run_kernel(group, tensors, group["lr"], group["betas"], group["weight_decay"], group["step"])

    def _run_kernel(
        self,
        group: Group,
        tensors: list[Tensor],
        learning_rate: float | Tensor,
        betas: tuple[float, float],
        weight_decay: float,
        steps: float,
    ) -> None:
        """Apply torch's fused AdamW to tensors of one group; ``steps`` only enters the bias correction."""
        states = [self.moments(group, tensor) for tensor in tensors]
        count = torch.full((), steps, dtype=torch.float32, device=tensors[0].device)
        torch._fused_adamw_(
            tensors,
            [gradient_of(tensor) for tensor in tensors],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [count] * len(tensors),
            lr=learning_rate,
            beta1=betas[0],
            beta2=betas[1],
            weight_decay=weight_decay,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    def moments(self, group: Group, tensor: Tensor) -> dict[str, Tensor]:
        """Return a tensor's state, which is created if needed."""
        if not self.state[tensor]:
            self.state[tensor] = self._new_state(group, tensor)
        state: dict[str, Tensor] = self.state[tensor]
        return state

    def _new_state(self, group: Group, tensor: Tensor) -> dict[str, Tensor]:
        return {"exp_avg": torch.zeros_like(tensor.detach()), "exp_avg_sq": torch.zeros_like(tensor.detach())}


def with_gradient(group: Group) -> list[Tensor]:
    """Return the tensors of a group that have a gradient."""
    return [tensor for tensor in group["params"] if tensor.grad is not None]


def gradient_of(tensor: Tensor) -> Tensor:
    """Return the gradient of a tensor that has one."""
    assert tensor.grad is not None
    return tensor.grad
