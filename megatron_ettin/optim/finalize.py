"""What follows the backward passes of a step: gradients of all ranks are summed, then divided by the scored tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from torch import Tensor


class GradientFinalizer:
    """Stands where megatron-core's schedules expect a ``finalize_model_grads_func``.

    megatron-core's own one also divides, but asks the host whether any token was scored, which makes it wait for the
    device in the middle of a step.
    """

    def __init__(self, arrived: Callable[[], None]) -> None:
        """Set up.

        Args:
            arrived: called when this rank has done its own part, before it waits for the others.
        """
        self._arrived = arrived

    def __call__(
        self, stages: list[DistributedDataParallel], scored_tokens: Tensor | None = None, **settings: Any
    ) -> None:
        """Sum the gradients over the ranks and divide them by the scored tokens of the global batch.

        Args:
            stages: this rank's part of the model.
            scored_tokens: those of this rank's micro-batches, an int32 scalar on the device, 0 before the last stage;
                summed up here. Without a single one gradients stay as they are, 0.
            settings: megatron-core's own, handed on.
        """
        self._arrived()
        finalize_model_grads(stages, None, **settings)
        if scored_tokens is None:
            return
        stage_group = parallel_state.get_pipeline_model_parallel_group()
        last_stage = parallel_state.get_pipeline_model_parallel_last_rank()
        torch.distributed.broadcast(scored_tokens, src=last_stage, group=stage_group)
        torch.distributed.all_reduce(
            scored_tokens, group=parallel_state.get_data_parallel_group(with_context_parallel=True)
        )
        scale = 1.0 / scored_tokens.clamp(min=1)
        for stage in stages:
            stage.scale_gradients(scale)
