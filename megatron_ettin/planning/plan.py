"""The plan that a dry run prints: layout, parameters, duration and memory, without torch and megatron-core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from megatron_ettin.config.layer_pattern import layer_pattern, local_window
from megatron_ettin.config.objectives import OBJECTIVES, mask_kind_of
from megatron_ettin.config.parallel import data_parallel_size, stage_layers
from megatron_ettin.config.run import RunConfig, value_of
from megatron_ettin.config.time_units import schedule_unit
from megatron_ettin.planning.cluster import LAYOUT_FIELDS, Cluster, check_fit, fullest_rank, recommend_layout
from megatron_ettin.planning.memory import MemoryEstimate, estimate_memory, micro_batches_per_step
from megatron_ettin.planning.model_size import ParameterCount, count_parameters, count_rank_parameters


@dataclass(frozen=True)
class Layout:
    """Distribution of the model and the batch over ranks."""

    world_size: int
    tensor_model_parallel_size: int
    pipeline_model_parallel_size: int
    data_parallel_size: int
    layers_per_stage: tuple[int, ...]
    micro_batches_per_step: int
    """Of one data-parallel rank."""


@dataclass(frozen=True)
class Moment:
    """A point in the phase; the unit that the schedule does not count in is estimated."""

    steps: int
    tokens: int
    learning_rate: float
    mask_ratio: float | None
    """Share of masked tokens; None where the objective hides none."""


@dataclass(frozen=True)
class Plan:
    """A planned run."""

    config: RunConfig
    layout: Layout
    parameters: ParameterCount
    parameters_per_rank: tuple[int, ...]
    """Of one rank of each pipeline stage."""
    memory: tuple[MemoryEstimate, ...]
    """Of one rank of each pipeline stage."""
    window: tuple[int, int]
    """Keys to the (left, right) of a position that a local layer sees."""
    global_layers: tuple[int, ...]
    """0-based."""
    path: tuple[Moment, ...]
    """The learning rate over the phase."""
    notes: tuple[str, ...]
    """Inherited and assumed settings, a line each."""
    cluster: Cluster | None = None
    """The GPUs to plan for, where given."""
    recommended: RunConfig | None = None
    """The run in the layout recommended for them, where their memory is given."""

    @property
    def tokens_per_step(self) -> int:
        """See :func:`tokens_per_step`."""
        return tokens_per_step(self.config)

    @property
    def tokens(self) -> int:
        """Real tokens of the phase: --train-tokens, or estimated from the steps."""
        training = self.config.training
        return training.train_tokens or self.tokens_per_step * training.train_iters

    @property
    def steps(self) -> int:
        """Steps of the phase: --train-iters, or estimated from the tokens."""
        training = self.config.training
        return training.train_iters or -(-training.train_tokens // self.tokens_per_step)

    @property
    def checkpoints(self) -> int:
        """Checkpoints that the phase saves, including its last and those that --keep-last-checkpoints deletes."""
        places = self.config.checkpoint
        if places.save_interval_tokens:
            return -(-self.tokens // places.save_interval_tokens)
        return -(-self.steps // places.save_interval) if places.save_interval else 1

    @property
    def fullest_rank(self) -> MemoryEstimate:
        """The memory of a rank of the stage that needs the most."""
        return max(self.memory, key=lambda estimate: estimate.total)

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dicts, ready for JSON."""
        return {
            "objective": self.config.training.objective,
            "phase": self.config.training.phase,
            "parameters": self.parameters.total,
            "parameters_by_part": asdict(self.parameters),
            "parameters_per_rank": list(self.parameters_per_rank),
            "vocab_size": self.config.model.vocab_size,
            "local_attention_window": list(self.window),
            "global_layers": list(self.global_layers),
            "steps": self.steps,
            "tokens": self.tokens,
            "tokens_per_step": self.tokens_per_step,
            "learning_rates": [asdict(moment) for moment in self.path],
            "checkpoints": self.checkpoints,
            "layout": asdict(self.layout),
            "memory_bytes_per_rank": self.fullest_rank.total,
            "memory_bytes_by_part": asdict(self.fullest_rank),
            "notes": list(self.notes),
            **({"cluster": self._cluster_facts(self.cluster)} if self.cluster else {}),
            "config": self.config.to_dict(),
        }

    def _cluster_facts(self, cluster: Cluster) -> dict[str, Any]:
        facts: dict[str, Any] = {**asdict(cluster), "usable_bytes": cluster.usable_bytes, "recommended": None}
        if self.recommended:
            memory = fullest_rank(self.recommended, cluster)
            facts["recommended"] = {name: value_of(self.recommended, name) for name in LAYOUT_FIELDS}
            facts["recommended_memory_bytes_by_part"] = asdict(memory)
        return facts


def build_plan(
    config: RunConfig,
    world_size: int,
    notes: Sequence[str] = (),
    rates: Sequence[tuple[int, float]] = (),
    cluster: Cluster | None = None,
) -> Plan:
    """Plan a checked run whose vocabulary size is resolved.

    Args:
        config: the run.
        world_size: ranks of this launch.
        notes: lines to report with the plan.
        rates: learning rates by time, in the unit of the schedule.
        cluster: the GPUs to plan for instead of the ranks of this launch.

    Raises:
        ConfigError: a rank needs more memory than a GPU of the cluster has.
    """
    recommended = None
    if cluster is not None:
        world_size, recommended = cluster.gpus, recommend_layout(config, cluster)
        check_fit(config, cluster, recommended)
    mask_kind = mask_kind_of(config.training.objective)
    layers = layer_pattern(config.model, mask_kind)
    return Plan(
        config=config,
        layout=_layout(config, world_size),
        parameters=count_parameters(config.model),
        parameters_per_rank=count_rank_parameters(config.model, config.parallel),
        memory=estimate_memory(config, world_size),
        window=local_window(config.model.sliding_window, mask_kind, config.model.causal_window),
        global_layers=tuple(index for index, layer in enumerate(layers) if layer.kind == "global"),
        path=tuple(_moment(config, time, rate) for time, rate in rates),
        notes=tuple(notes),
        cluster=cluster,
        recommended=recommended,
    )


def tokens_per_step(config: RunConfig) -> int:
    """Return the expected tokens of a step by --real-tokens-per-row; without it its positions, an upper bound."""
    if config.training.global_batch_tokens:
        return config.training.global_batch_tokens
    return round(config.training.global_batch_size * (config.data.real_tokens_per_row or config.data.seq_length))


def _moment(config: RunConfig, time: int, rate: float) -> Moment:
    per_step = tokens_per_step(config)
    in_tokens = schedule_unit(config.optimizer, config.training) == "tokens"
    steps, tokens = (round(time / per_step), time) if in_tokens else (time, time * per_step)
    ratio = config.data.mask_ratio(tokens) if OBJECTIVES[config.training.objective].hides_tokens else None
    return Moment(steps, tokens, rate, ratio)


def _layout(config: RunConfig, world_size: int) -> Layout:
    parallel = config.parallel
    dp = data_parallel_size(parallel, world_size)
    return Layout(
        world_size=world_size,
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        data_parallel_size=dp,
        layers_per_stage=stage_layers(config.model.num_layers, parallel.pipeline_model_parallel_size),
        micro_batches_per_step=micro_batches_per_step(config, dp),
    )
