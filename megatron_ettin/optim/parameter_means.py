"""Means and norms over full parameters, across tensor- and data-parallel shards.

A stepped tensor may be a parameter, its fp32 copy or a flat shard of either (distributed optimizer), and each of these
may belong to a tensor-parallel part of the parameter or to a replica.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed
from megatron.core import parallel_state
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import Parameter


class ParameterMeans:
    """Means over the full parameters of this rank's stage, equal on all ranks that have a part of a parameter."""

    def __init__(self, stage: torch.nn.Module, optimizer: MegatronOptimizer, vocab_size: int) -> None:
        """Map each stepped tensor to its parameter; the parallel groups must exist.

        Args:
            stage: this rank's stage; its parameters have the same order on all its ranks.
            optimizer: megatron-core's optimizer of the stage, which decides what is stepped.
            vocab_size: tokens without padding. Padding rows have no gradient; a mean over them would depend on the
                layout.
        """
        named = [(name, parameter) for name, parameter in stage.named_parameters() if parameter.requires_grad]
        tensors = _stepped_tensors([parameter for _, parameter in named], optimizer)
        self._index = {tensor: index for index, tensor in enumerate(tensors)}
        device = named[0][1].device
        sizes = [_full_size(name, parameter, vocab_size) for name, parameter in named]
        self._sizes = torch.tensor(sizes, dtype=torch.float64, device=device)
        counted = [float(_counts(parameter)) for _, parameter in named]
        self._counted = torch.tensor(counted, dtype=torch.float64, device=device)
        self._groups = list(_reductions(optimizer))
        shared = [index for index, (_, value) in enumerate(named) if getattr(value, "shared_embedding", False)]
        self._shared = torch.tensor(shared, dtype=torch.int64, device=device)

    def means(self, tensors: Sequence[Tensor], sums: Tensor) -> Tensor:
        """Return the mean over the full parameter of each tensor; collective over the ranks of the stage.

        Args:
            tensors: the tensors that this rank steps.
            sums: the sum over each tensor, [tensors] in float64.
        """
        # Non-blocking: otherwise the host would wait for the device in every step.
        indices = torch.tensor([self._index[tensor] for tensor in tensors], dtype=torch.int64)
        positions = indices.to(self._sizes.device, non_blocking=True)
        totals = torch.zeros_like(self._sizes)
        totals[positions] = sums.to(totals.device)
        totals *= self._counted
        for group in self._groups:
            torch.distributed.all_reduce(totals, group=group)
        self._agree_on_tied_copies(totals)
        return (totals / self._sizes)[positions]

    def _agree_on_tied_copies(self, totals: Tensor) -> None:
        """Give the first and last stage bit-equal sums for the tied matrix, so that their copies cannot diverge."""
        if len(self._shared) and parallel_state.get_pipeline_model_parallel_world_size() > 1:
            tied = totals[self._shared]
            group = parallel_state.get_embedding_group()
            torch.distributed.all_reduce(tied, op=torch.distributed.ReduceOp.MAX, group=group)
            totals[self._shared] = tied


def is_of_vocabulary(name: str) -> bool:
    """Whether a parameter has one row per token, plus padding rows that make the rows divisible."""
    return name.endswith(("embedding.word_embeddings.weight", "output_layer.weight", "output_layer.bias"))


def _stepped_tensors(parameters: list[Parameter], optimizer: MegatronOptimizer) -> list[Tensor]:
    """Return the tensor that this rank steps for each parameter; the parameter itself if another rank has its shard."""
    shards: dict[Parameter, Tensor] = {}
    if isinstance(optimizer, DistributedOptimizer):
        for full, parts in zip(optimizer.model_fp32_groups, optimizer.shard_fp32_groups, strict=True):
            shards.update(zip(full, parts, strict=True))
    # The fp32 copy of a bf16 parameter, or of this rank's shard of it, is an attribute of the parameter.
    stepped = [shards.get(parameter, getattr(parameter, "main_param", None)) for parameter in parameters]
    return [parameter if tensor is None else tensor for parameter, tensor in zip(parameters, stepped, strict=True)]


def _full_size(name: str, parameter: Parameter, vocab_size: int) -> int:
    if is_of_vocabulary(name):
        return vocab_size * parameter[0].numel()
    return parameter.numel() * (parallel_state.get_tensor_model_parallel_world_size() if _is_split(parameter) else 1)


def _counts(parameter: Parameter) -> bool:
    """Whether this rank's part of a parameter enters a sum; of tensor-parallel replicas only the first does."""
    return _is_split(parameter) or parallel_state.get_tensor_model_parallel_rank() == 0


def _is_split(parameter: Parameter) -> bool:
    """Whether tensor parallelism splits the parameter; megatron-core marks it."""
    return bool(getattr(parameter, "tensor_model_parallel", False))


def _reductions(optimizer: MegatronOptimizer) -> Iterator[ProcessGroup]:
    """Yield the groups that a parameter is split over: tensor and, with a distributed optimizer, data parallel."""
    groups = [parallel_state.get_tensor_model_parallel_group()]
    if isinstance(optimizer, DistributedOptimizer):
        groups.append(optimizer.data_parallel_group)
    yield from (group for group in groups if group.size() > 1)


@torch.no_grad()
def parameter_norm(stage: nn.Module) -> float:
    """Return the global L2 norm of the trained weights; collective, and equal on all ranks.

    A parameter that several ranks have counts once: tensor-parallel replicas, and the tied matrix, of which the last
    stage has a copy. The padding rows of the vocabulary are 0.
    """
    squares = [_sum_of_squares(parameter) for parameter in stage.parameters() if _enters_norm(parameter)]
    device = next(stage.parameters()).device
    total = torch.stack(squares).sum() if squares else torch.zeros((), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total, group=parallel_state.get_model_parallel_group())
    return float(total.sqrt())


def _sum_of_squares(parameter: Tensor) -> Tensor:
    return torch.linalg.vector_norm(parameter, dtype=torch.float32).double().square()


def _enters_norm(parameter: Parameter) -> bool:
    is_copy = getattr(parameter, "shared_embedding", False) and not parallel_state.is_pipeline_first_stage()
    return parameter.requires_grad and not is_copy and _counts(parameter)
