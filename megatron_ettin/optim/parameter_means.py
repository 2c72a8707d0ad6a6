"""How the parameters of a pipeline stage lie spread over ranks, and means over whole parameters.

A stepped tensor may be a parameter, the fp32 copy of one, a flat shard of either (distributed optimizer), and any of
these of one tensor-parallel part or of a replica.
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


class Spread:
    """Means over the whole parameters of this rank's stage, the same on all ranks that hold a part of one."""

    def __init__(self, stage: torch.nn.Module, optimizer: MegatronOptimizer, vocab_size: int) -> None:
        """Note where each tensor belongs; the parallel groups exist.

        Args:
            stage: this rank's stage; its parameters come in the same order on all its ranks.
            optimizer: megatron-core's optimizer of the stage, which decides what is stepped.
            vocab_size: true tokens. Filling rows have no gradient; a mean that counted them would depend on layout.
        """
        named = [(name, parameter) for name, parameter in stage.named_parameters() if parameter.requires_grad]
        tensors = _stepped_tensors([parameter for _, parameter in named], optimizer)
        self._index = {tensor: index for index, tensor in enumerate(tensors)}
        device = named[0][1].device
        sizes = [_whole_size(name, parameter, vocab_size) for name, parameter in named]
        self._sizes = torch.tensor(sizes, dtype=torch.float64, device=device)
        counted = [float(_counts(parameter)) for _, parameter in named]
        self._counted = torch.tensor(counted, dtype=torch.float64, device=device)
        self._groups = list(_reductions(optimizer))
        shared = [index for index, (_, value) in enumerate(named) if getattr(value, "shared_embedding", False)]
        self._shared = torch.tensor(shared, dtype=torch.int64, device=device)

    def means(self, tensors: Sequence[Tensor], sums: Tensor) -> Tensor:
        """Return the mean over the whole parameter of each tensor; collective over the ranks of the stage.

        Args:
            tensors: those that this rank steps.
            sums: the sum over each of them, [tensors] in float64.
        """
        # Without waiting: a step would stand still until the device has caught up.
        indices = torch.tensor([self._index[tensor] for tensor in tensors], dtype=torch.int64)
        places = indices.to(self._sizes.device, non_blocking=True)
        totals = torch.zeros_like(self._sizes)
        totals[places] = sums.to(totals.device)
        totals *= self._counted
        for group in self._groups:
            torch.distributed.all_reduce(totals, group=group)
        self._agree_on_tied_copies(totals)
        return (totals / self._sizes)[places]

    def _agree_on_tied_copies(self, totals: Tensor) -> None:
        """Give first and last stage the same sum for the tied matrix, to the bit, lest their copies drift apart."""
        if len(self._shared) and parallel_state.get_pipeline_model_parallel_world_size() > 1:
            tied = totals[self._shared]
            group = parallel_state.get_embedding_group()
            torch.distributed.all_reduce(tied, op=torch.distributed.ReduceOp.MAX, group=group)
            totals[self._shared] = tied


def is_of_vocabulary(name: str) -> bool:
    """Whether a parameter has a row for each token, and rows that only fill them up to be split evenly."""
    return name.endswith(("embedding.word_embeddings.weight", "output_layer.weight", "output_layer.bias"))


def _stepped_tensors(parameters: list[Parameter], optimizer: MegatronOptimizer) -> list[Tensor]:
    """Return what is stepped for each parameter on this rank; the parameter itself where its shard lies elsewhere."""
    shards: dict[Parameter, Tensor] = {}
    if isinstance(optimizer, DistributedOptimizer):
        for wholes, parts in zip(optimizer.model_fp32_groups, optimizer.shard_fp32_groups, strict=True):
            shards.update(zip(wholes, parts, strict=True))
    # The fp32 copy of a bf16 parameter, or of this rank's shard of it, hangs on the parameter.
    found = [shards.get(parameter, getattr(parameter, "main_param", None)) for parameter in parameters]
    return [parameter if tensor is None else tensor for parameter, tensor in zip(parameters, found, strict=True)]


def _whole_size(name: str, parameter: Parameter, vocab_size: int) -> int:
    if is_of_vocabulary(name):
        return vocab_size * parameter[0].numel()
    return parameter.numel() * (parallel_state.get_tensor_model_parallel_world_size() if _is_split(parameter) else 1)


def _counts(parameter: Parameter) -> bool:
    """Whether this rank speaks for its part of a parameter: one tensor-parallel rank does for all replicas."""
    return _is_split(parameter) or parallel_state.get_tensor_model_parallel_rank() == 0


def _is_split(parameter: Parameter) -> bool:
    """Whether tensor parallelism splits it; megatron-core marks those."""
    return bool(getattr(parameter, "tensor_model_parallel", False))


def _reductions(optimizer: MegatronOptimizer) -> Iterator[ProcessGroup]:
    """Give the groups over which parts lie: tensor parallel, and under a distributed optimizer data parallel."""
    groups = [parallel_state.get_tensor_model_parallel_group()]
    if isinstance(optimizer, DistributedOptimizer):
        groups.append(optimizer.data_parallel_group)
    yield from (group for group in groups if group.size() > 1)


@torch.no_grad()
def parameter_norm(stage: nn.Module) -> float:
    """Return the global L2 norm of the trained weights; collective, and the same on all ranks.

    A parameter that several ranks hold counts once: what tensor-parallel ranks share, and the tied matrix that the last
    stage has a copy of. Rows that only fill the vocabulary are 0.
    """
    squares = [_sum_of_squares(parameter) for parameter in stage.parameters() if _is_counted(parameter)]
    device = next(stage.parameters()).device
    total = torch.stack(squares).sum() if squares else torch.zeros((), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total, group=parallel_state.get_model_parallel_group())
    return float(total.sqrt())


def _sum_of_squares(parameter: Tensor) -> Tensor:
    return torch.linalg.vector_norm(parameter, dtype=torch.float32).double().square()


def _is_counted(parameter: nn.Parameter) -> bool:
    if not parameter.requires_grad:
        return False
    if getattr(parameter, "shared_embedding", False) and not parallel_state.is_pipeline_first_stage():
        return False
    is_split = bool(getattr(parameter, "tensor_model_parallel", False))
    return is_split or parallel_state.get_tensor_model_parallel_rank() == 0
