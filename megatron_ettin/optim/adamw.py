"""AdamW by torch's fused kernel, with one count of steps where torch keeps one beside every tensor.

megatron-core saves and restores the step of an optimizer in two ways: beside each tensor's moments, as torch's AdamW
has it, or in the parameter groups, as the Adam of Transformer Engine and apex has it; which one depends on whether
either package can be imported. In memory the count lies in the groups, always; the state dict speaks as megatron-core
expects.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from megatron.core.optimizer import distrib_optimizer
from torch import Tensor

Group = dict[str, Any]
"""A torch parameter group: ``params`` and their settings."""


class FusedAdamW(torch.optim.AdamW):
    """Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2, for dense fp32 tensors on CPU or CUDA.

    It is a ``torch.optim.AdamW`` because megatron-core's distributed optimizer takes no other class of torch.
    """

    @classmethod
    def over(cls, groups: list[Group]) -> Self:
        """Return an optimizer that steps these very groups, which hold all settings already.

        Torch's constructor cannot take them: the shards of a distributed optimizer are views, which it refuses.
        """
        optimizer = cls([{"params": []}])
        optimizer.param_groups = groups
        for group in groups:
            group["step"] = 0
            for tensor in group["params"]:
                optimizer.state[tensor] = optimizer._new_state(group, tensor)
        return optimizer

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all tensors that have a gradient; one without keeps its state, while the count of steps goes on."""
        assert closure is None, "gradients are there already"
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
        self._step_groups()

    def state_dict(self) -> dict[str, Any]:
        """Return torch's state dict with the step where megatron-core looks for it."""
        told = super().state_dict()
        state = {index: _without_step(of_tensor) for index, of_tensor in told["state"].items()}
        if not distrib_optimizer.HAVE_APEX_OR_TE:
            for group in told["param_groups"]:
                step = float(group.pop("step", 0))
                for index in state.keys() & set(group["params"]):
                    state[index]["step"] = torch.tensor(step)
        return {**told, "state": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state dict with the step in either place; all groups stand at the same one."""
        steps = [of_tensor["step"] for of_tensor in state_dict["state"].values() if "step" in of_tensor]
        steps = steps or [group["step"] for group in state_dict["param_groups"] if "step" in group] or [0]
        state = {index: _without_step(of_tensor) for index, of_tensor in state_dict["state"].items()}
        super().load_state_dict({**state_dict, "state": state})
        for group in self.param_groups:
            group["step"] = int(max(map(float, steps)))

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Torch's Adam reads a step beside every tensor here, where there is none.
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
        """Apply torch's fused AdamW to tensors of one group; ``steps`` only corrects the bias of the moments."""
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
        """Return a tensor's state, made where there is none yet."""
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


def _without_step(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name != "step"}
