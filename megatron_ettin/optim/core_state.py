"""Where megatron-core keeps the step of an optimizer, and the one optimizer inside its chain.

The optimizers of this package count their steps in the parameter groups. In a state dict, megatron-core 0.16.1 expects
the count next to each tensor's moments, as torch's AdamW stores it; if Transformer Engine or apex can be imported, it
expects the count in the parameter groups, as their Adam stores it. All translation between the two is in this file.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.optimizer import ChainedOptimizer, MegatronOptimizer, distrib_optimizer

_STEP = "step"


def single_optimizer(optimizer: MegatronOptimizer) -> MegatronOptimizer:
    """Return the one optimizer inside megatron-core's chain; only mixtures of experts have more."""
    if not isinstance(optimizer, ChainedOptimizer):
        return optimizer
    (single,) = optimizer.chained_optimizers
    assert isinstance(single, MegatronOptimizer)
    return single


def optimizer_steps(optimizer: MegatronOptimizer) -> int:
    """Return the number of steps that an optimizer has made."""
    return max(int(group[_STEP]) for group in single_optimizer(optimizer).param_groups)


def set_group_steps(groups: list[dict[str, Any]], steps: int) -> None:
    """Set the step count of parameter groups."""
    for group in groups:
        group[_STEP] = steps


def advance_groups(groups: list[dict[str, Any]]) -> None:
    """Count one more step in parameter groups."""
    for group in groups:
        group[_STEP] = group.get(_STEP, 0) + 1


def to_core_state(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state dict with the step where megatron-core expects it."""
    state = state_dict["state"]
    if not distrib_optimizer.HAVE_APEX_OR_TE:
        for group in state_dict["param_groups"]:
            step = float(group.pop(_STEP, 0))
            for index in state.keys() & set(group["params"]):
                state[index] = {**state[index], _STEP: torch.tensor(step)}
    return state_dict


def from_core_state(state_dict: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Return a state dict without the steps of tensors, and the step, which all tensors and groups share."""
    tensors, groups = state_dict["state"].values(), state_dict["param_groups"]
    steps = [tensor[_STEP] for tensor in tensors if _STEP in tensor]
    steps = steps or [group[_STEP] for group in groups if _STEP in group]
    state = {
        index: {name: value for name, value in tensor.items() if name != _STEP}
        for index, tensor in state_dict["state"].items()
    }
    return {**state_dict, "state": state}, int(max(map(float, steps), default=0))


def set_nested_steps(nested: dict[str, Any], steps: int) -> None:
    """Set the step in the sharded state of one of megatron-core's optimizers, before it is loaded.

    The fp32 optimizer keeps torch's state dict at the top, the others under ``optimizer``. ``common_step``, which it
    would prefer, is the step of the optimizer that the state is loaded into.
    """
    state = nested.get("optimizer", nested)
    state.get("state", {}).pop("common_step", None)
    set_group_steps(state["param_groups"], steps)
