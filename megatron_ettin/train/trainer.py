"""A run under way: what happens between two steps."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from megatron_ettin.checkpoint.folder.state import TrainingState
from megatron_ettin.checkpoint.manager import CheckpointManager
from megatron_ettin.config.objectives import OBJECTIVES
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.time_units import is_complete
from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.data.batch_plan import StepPlan
from megatron_ettin.data.rows import EvaluationRows
from megatron_ettin.data.training_rows import TrainingRows
from megatron_ettin.objectives.objective import Objective
from megatron_ettin.optim.parameter_means import parameter_norm
from megatron_ettin.runtime.device import peak_memory_bytes
from megatron_ettin.runtime.health.watchdog import Watchdog
from megatron_ettin.runtime.ranks import said_by_any
from megatron_ettin.train.build import Training
from megatron_ettin.train.spikes import StepGuard
from megatron_ettin.train.step import StepResult
from megatron_ettin.train.stop import StopRequests, reason_of
from megatron_ettin.train.telemetry.console import Screen
from megatron_ettin.train.telemetry.metrics import MetricsLog, Record, step_record, validation_record
from megatron_ettin.train.telemetry.non_finite import explain_non_finite
from megatron_ettin.train.telemetry.profiler import Profiler
from megatron_ettin.train.telemetry.stragglers import Stragglers
from megatron_ettin.train.telemetry.throughput import Pace
from megatron_ettin.train.validate import validate_sources


@dataclass
class Session:
    """One launch of a run. All ranks decide alike, from the step alone; what they may not share is None or silent."""

    training: Training
    objective: Objective
    state: TrainingState
    rows: TrainingRows
    plan: StepPlan
    validation_rows: Sequence[EvaluationRows]
    """Of each source."""
    tokenizer_files: Mapping[str, bytes]
    screen: Screen
    metrics: MetricsLog | None
    requests: StopRequests
    watchdog: Watchdog
    pace: Pace
    profiler: Profiler
    record: Record = field(init=False, default_factory=dict)
    """Figures of the latest step."""
    first_record: Record = field(init=False, default_factory=dict)
    """Figures of this launch's first step."""
    stop_reason: str = field(init=False, default="")
    """Why all ranks were asked to stop, once they were."""
    guard: StepGuard = field(init=False)
    _stragglers: Stragglers = field(init=False)
    _checkpoints: CheckpointManager = field(init=False)
    _first_step: int = field(init=False)
    _tokens_before: int = field(init=False, default=0)
    """Trained before the latest step."""

    def __post_init__(self) -> None:
        self._first_step = self.state.step
        self.guard = StepGuard(self.config.training, self.state)
        threshold = self.config.parallel.straggler_threshold
        self._stragglers = Stragglers(self.training.ranks, self.training.device, threshold)
        self._checkpoints = CheckpointManager(
            self.config, self.training.parts, self.tokenizer_files, log=self.screen.note
        )

    @property
    def config(self) -> RunConfig:
        """The resolved config."""
        return self.training.config

    @property
    def is_complete(self) -> bool:
        """Whether the run has made all its steps, or trained all its tokens."""
        return is_complete(self.config.training, self.state.step, self.state.consumed_tokens)

    @property
    def steps_ahead(self) -> range:
        """The steps (0-based) that may come; how many a run in tokens takes is known at its end."""
        first = self.state.step
        return range(first, first if self.is_complete else self.config.training.train_iters or sys.maxsize)

    def stop_early(self) -> bool:
        """Whether the launch was asked to stop before its first step; collective. There is nothing to save then."""
        if not self.is_complete:
            self.stop_reason = reason_of(said_by_any(self.requests.votes(), self.training.device.torch_device))
        return bool(self.stop_reason)

    def count(self, result: StepResult, learning_rate: float, seconds: float, waited_seconds: float) -> None:
        """Note a step that was made, or skipped, in so many seconds, the wait for its batches counted."""
        self._tokens_before = self.state.consumed_tokens
        self.state.count_step(len(self.plan.of(self.state.step)), result.sums.real_tokens)
        self.pace.add(result.sums, seconds, waited_seconds)
        self._stragglers.add(self.training.stopwatch.seconds(), seconds)
        name = self.config.training.objective
        self.record = step_record(name, self.state.step, self.state.consumed_tokens, result, learning_rate)
        self.record |= self.pace.figures()
        if OBJECTIVES[name].hides_tokens:
            self.record["mask_ratio"] = self.config.data.mask_ratio(self._tokens_before)
        self.first_record = self.first_record or self.record
        self.stop_reason = "" if self.is_complete else reason_of(result.votes)
        self.guard.note(result)

    def tell_skip(self, result: StepResult, batches: Sequence[PackedBatch]) -> None:
        """Say why a step was skipped, and end the run after too many; collective.

        Raises:
            RunFailure: on all ranks, after more than --max-skipped-steps in a row.
        """
        self.watchdog.mark(self.state.step, "looking for what is not finite")
        self.record["skipped"] = 1
        what = f"its loss, {result.sums.loss:.4f}, leaps beyond --skip-loss-spikes"
        if not result.finite:
            what = explain_non_finite(self.training, batches, self.state.step - 1, self.plan)
        self.screen.note(f"step {self.state.step} was skipped: {what}")
        if self.guard.is_spent:
            self._checkpoints.finish()
            self.log()
            raise self.guard.failure()

    def evaluate(self) -> None:
        """Measure the validation loss, every --eval-interval steps (or tokens) and at the end of the run."""
        settings = self.config.training
        if not (settings.eval_interval or settings.eval_interval_tokens) or not self.validation_rows:
            return
        if self.is_complete or self._is_due(settings.eval_interval, settings.eval_interval_tokens):
            self.watchdog.mark(self.state.step, "validating")
            rows_of_step = settings.global_batch_tokens // self.config.data.seq_length or settings.global_batch_size
            sums, by_source = validate_sources(
                self.training, self.objective, self.validation_rows, settings.eval_iters * rows_of_step
            )
            self.state.validation_loss = sums.loss
            self.record |= validation_record(settings.objective, sums)
            for name, own in by_source.items():
                self.record |= validation_record(settings.objective, own, f"_{name}")

    def log(self) -> None:
        """Write and show the step's figures, every --log-interval steps and with rarer events; collective."""
        due = self.state.step % self.config.training.log_interval == 0
        if due or self.is_complete or self.record.keys() & {"validation_loss", "skipped"}:
            self.record["parameter_norm"] = parameter_norm(self.training.model)
            self.record["memory_bytes"] = peak_memory_bytes(self.training.device)
            slowest, told = self._stragglers.report()
            self.record |= slowest
            if self.metrics is not None:
                self.metrics.write(self.record)
            self.screen.show(self.record)
            if told:
                self.screen.note(told)
            self.pace.start_over()

    def save(self) -> None:
        """Write a checkpoint, every --save-interval steps (or tokens) and, waiting for it, before the launch ends."""
        places, stops = self.config.checkpoint, self.stop()
        self.watchdog.mark(self.state.step, "saving")
        self._checkpoints.finish_if_written()
        if stops or self._is_due(places.save_interval, places.save_interval_tokens):
            if len(self.rows.sources) > 1:
                self.state.source_rows = self.rows.blend.counts(self.state.consumed_samples)
            self._checkpoints.save(self.state)
        if stops:
            self._checkpoints.finish()

    def stop(self) -> bool:
        """Whether this launch ends with the step just made."""
        limit = self.config.training.exit_interval
        limited = bool(limit) and self.state.step - self._first_step >= limit
        return self.is_complete or limited or bool(self.stop_reason)

    def _is_due(self, steps: int, tokens: int) -> bool:
        """Whether the latest step ended an interval; of tokens one ends with the step that reaches its multiple."""
        if tokens:
            return self.state.consumed_tokens // tokens > self._tokens_before // tokens
        return bool(steps) and self.state.step % steps == 0

    def close(self) -> None:
        """Write out what is buffered and free the terminal."""
        self.profiler.close()
        if self.metrics is not None:
            self.metrics.close()
        self.screen.close()
