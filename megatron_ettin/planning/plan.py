"""The dry run: what a run would be, worked out without starting it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from megatron_ettin.config.layer_pattern import layer_pattern, local_window
from megatron_ettin.config.objectives import OBJECTIVES, mask_kind_of
from megatron_ettin.config.parallel import data_parallel_size, stage_layers
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.time_units import schedule_unit
from megatron_ettin.planning.cluster import LAYOUT_FIELDS, Cluster, check_fit, fullest_rank, recommend_layout
from megatron_ettin.planning.memory import MemoryEstimate, estimate_memory, micro_batches_per_step
from megatron_ettin.planning.model_size import ParameterCount, count_parameters, count_rank_parameters


@dataclass(frozen=True)
class Layout:
    """How the ranks share the work."""

    world_size: int
    tensor_model_parallel_size: int
    pipeline_model_parallel_size: int
    data_parallel_size: int
    layers_per_stage: tuple[int, ...]
    micro_batches_per_step: int
    """Of one data-parallel rank."""


@dataclass(frozen=True)
class Moment:
    """A point of the phase's time; what its schedule does not count in is estimated."""

    steps: int
    tokens: int
    learning_rate: float
    mask_ratio: float | None
    """Share of the tokens that is scored where the objective masks."""


@dataclass(frozen=True)
class Plan:
    """A run on paper."""

    config: RunConfig
    layout: Layout
    parameters: ParameterCount
    parameters_per_rank: tuple[int, ...]
    """Of one rank of each pipeline stage."""
    memory: tuple[MemoryEstimate, ...]
    """Of one rank of each pipeline stage."""
    window: tuple[int, int]
    """Keys that a local layer sees to the left and to the right of a position."""
    global_layers: tuple[int, ...]
    """0-based."""
    path: tuple[Moment, ...]
    """The learning rate at chosen times."""
    notes: tuple[str, ...]
    """What was taken from elsewhere or assumed."""
    cluster: Cluster | None = None
    """The GPUs that were planned for, where they were told."""
    recommended: RunConfig | None = None
    """The same run laid out for them, where their memory was told."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a step by --real-tokens-per-row; without it the step's positions, which bound them."""
        return tokens_per_step(self.config)

    @property
    def tokens(self) -> int:
        """Real tokens of the phase: told by --train-tokens, or estimated from the steps."""
        training = self.config.training
        return training.train_tokens or self.tokens_per_step * training.train_iters

    @property
    def steps(self) -> int:
        """Steps of the phase: told by --train-iters, or estimated from the tokens."""
        training = self.config.training
        return training.train_iters or -(-training.train_tokens // self.tokens_per_step)

    @property
    def checkpoints(self) -> int:
        """Checkpoints that the phase saves, the one at its end counted; --keep-last-checkpoints deletes some again."""
        places = self.config.checkpoint
        if places.save_interval_tokens:
            return -(-self.tokens // places.save_interval_tokens)
        return -(-self.steps // places.save_interval) if places.save_interval else 1

    @property
    def fullest_rank(self) -> MemoryEstimate:
        """The memory of a rank of the stage that needs most."""
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
            laid_out = self.recommended.to_dict()
            values = {name: value for section in laid_out.values() for name, value in section.items()}
            facts["recommended"] = {name: values[name] for name in LAYOUT_FIELDS}
            facts["recommended_memory_bytes_by_part"] = asdict(memory)
        return facts


def build_plan(
    config: RunConfig, world_size: int, notes: Sequence[str] = (), rates: Sequence[tuple[int, float]] = ()
) -> Plan:
    """Work out a checked run whose vocabulary is resolved.

    Args:
        config: the run.
        world_size: ranks over all nodes.
        notes: what to tell besides.
        rates: times of the phase, in the unit of its schedule, each with the learning rate there.
    """
    mask_kind = mask_kind_of(config.training.objective)
    layers = layer_pattern(config.model, mask_kind)
    return Plan(
        config=config,
        layout=_layout(config, world_size),
        parameters=count_parameters(config.model),
        parameters_per_rank=count_rank_parameters(config.model, config.parallel),
        memory=estimate_memory(config, world_size, mask_kind),
        window=local_window(config.model.sliding_window, mask_kind, config.model.causal_window),
        global_layers=tuple(index for index, layer in enumerate(layers) if layer.kind == "global"),
        path=tuple(_moment(config, time, rate) for time, rate in rates),
        notes=tuple(notes),
    )


def tokens_per_step(config: RunConfig) -> int:
    """Return the tokens of a step by the mean that the run expects of its rows, or the positions that bound them."""
    if config.training.global_batch_tokens:
        return config.training.global_batch_tokens
    return round(config.training.global_batch_size * (config.data.real_tokens_per_row or config.data.seq_length))


def _moment(config: RunConfig, time: int, rate: float) -> Moment:
    each = tokens_per_step(config)
    in_tokens = schedule_unit(config.optimizer, config.training) == "tokens"
    steps, tokens = (round(time / each), time) if in_tokens else (time, time * each)
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


def plan_run(
    config: RunConfig,
    world_size: int,
    notes: Sequence[str] = (),
    rates: Sequence[tuple[int, float]] = (),
    cluster: Cluster | None = None,
) -> Plan:
    """Work out a run that preflight has found fit, without torch and megatron-core.

    Args:
        config: the run.
        world_size: ranks of this launch.
        notes: lines to report with the plan.
        rates: learning rates of the schedule by its time.
        cluster: the GPUs to plan for instead.

    Raises:
        ConfigError: a rank of the run needs more memory than a GPU of the cluster has.
    """
    if cluster is None:
        return build_plan(config, world_size, notes, rates)
    recommended = recommend_layout(config, cluster)
    check_fit(config, cluster, recommended)
    return replace(build_plan(config, cluster.gpus, notes, rates), cluster=cluster, recommended=recommended)
