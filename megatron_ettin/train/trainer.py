"""A training run in progress: what happens between two steps."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from megatron_ettin.checkpoint.folder.layout import step_folder_name
from megatron_ettin.checkpoint.folder.state import TrainingState
from megatron_ettin.checkpoint.manager import CheckpointManager
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.time_units import is_complete
from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.optim.parameter_means import parameter_norm
from megatron_ettin.runtime.device import peak_memory_bytes
from megatron_ettin.runtime.health.watchdog import Watchdog
from megatron_ettin.runtime.process import any_rank
from megatron_ettin.train.build import Training
from megatron_ettin.train.datasets import TrainingData, first_validation_rows
from megatron_ettin.train.spikes import StepGuard
from megatron_ettin.train.step import StepResult
from megatron_ettin.train.stop import StopRequests, reason_of
from megatron_ettin.train.telemetry.console import RunConsole
from megatron_ettin.train.telemetry.metrics import MetricsLog, Record, StepReport, set_record, validation_record
from megatron_ettin.train.telemetry.non_finite import explain_non_finite
from megatron_ettin.train.telemetry.profiler import Profiler
from megatron_ettin.train.telemetry.stragglers import Stragglers
from megatron_ettin.train.telemetry.throughput import Throughput
from megatron_ettin.train.validate import validate_sources


@dataclass
class Trainer:
    """One launch of a run. Decisions depend only on the step and on shared totals, so all ranks agree."""

    training: Training
    data: TrainingData
    state: TrainingState
    tokenizer_files: Mapping[str, bytes]
    console: RunConsole
    metrics: MetricsLog | None
    """None on all ranks but the main one."""
    requests: StopRequests
    watchdog: Watchdog
    throughput: Throughput
    profiler: Profiler
    stop_reason: str = field(init=False, default="")
    """Why all ranks stop early; empty if they do not."""
    guard: StepGuard = field(init=False)
    _first_report: StepReport | None = field(init=False, default=None)
    _last_report: StepReport | None = field(init=False, default=None)
    _stragglers: Stragglers = field(init=False)
    _checkpoints: CheckpointManager = field(init=False)
    _first_step: int = field(init=False)
    _tokens_before: int = field(init=False, default=0)
    """Tokens trained before the last step."""

    def __post_init__(self) -> None:
        self._first_step = self.state.step
        self.guard = StepGuard(self.config.training, self.state)
        threshold = self.config.parallel.straggler_threshold
        self._stragglers = Stragglers(self.training.ranks, self.training.device, threshold)
        parts = self.training.parts
        self._checkpoints = CheckpointManager(self.config, parts, self.tokenizer_files, log=self.console.note)

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
        """The steps (0-based) that may follow; a run that counts tokens ends before their end."""
        first = self.state.step
        return range(first, first if self.is_complete else self.config.training.train_iters or sys.maxsize)

    def build_batches(self, step: int) -> list[PackedBatch]:
        """Build this rank's micro-batches of a step (0-based)."""
        return self.data.batches(step, self.training.ranks)

    def should_stop_early(self) -> bool:
        """Whether the launch was asked to stop before its first step; collective. There is nothing to save then."""
        if not self.is_complete:
            self.stop_reason = reason_of(any_rank(self.requests.votes(), self.training.device.torch_device))
        return bool(self.stop_reason)

    def count(self, result: StepResult, learning_rate: float, seconds: float, waited_seconds: float) -> StepReport:
        """Count a step, applied or skipped, and return its report.

        Args:
            result: of the step.
            learning_rate: of the step.
            seconds: its duration, including the wait for its batches.
            waited_seconds: the wait for its batches.
        """
        self._tokens_before = self.state.consumed_tokens
        self.state.count_step(len(self.data.plan.of(self.state.step)), result.sums.real_tokens)
        self.throughput.add(result.sums, seconds, waited_seconds)
        self._stragglers.add(self.training.stopwatch.seconds(), seconds)
        self.stop_reason = "" if self.is_complete else reason_of(result.votes)
        self.guard.count(result)
        traits = self.data.objective.traits
        report = StepReport(
            objective=traits.name,
            step=self.state.step,
            tokens=self.state.consumed_tokens,
            result=result,
            learning_rate=learning_rate,
            throughput=self.throughput.figures(),
            mask_ratio=self.config.data.mask_ratio(self._tokens_before) if traits.hides_tokens else None,
        )
        self._first_report = self._first_report or report
        self._last_report = report
        return report

    def report_skip(self, report: StepReport, batches: Sequence[PackedBatch]) -> None:
        """Report why a step was skipped, and end the run after too many skipped steps; collective.

        Raises:
            RunFailure: on all ranks, after more than --max-skipped-steps in a row.
        """
        self.watchdog.mark(self.state.step, "looking for non-finite values")
        reason = f"its loss, {report.result.sums.loss:.4f}, exceeds --skip-loss-spikes"
        if not report.result.finite:
            reason = explain_non_finite(self.training, batches, self.state.step - 1, self.data.plan)
        self.console.note(f"step {self.state.step} was skipped: {reason}")
        if self.guard.is_exhausted:
            self._checkpoints.finish()
            self.log(report, {})
            raise self.guard.failure()

    def evaluate(self) -> Record:
        """Return the figures of a validation, every --eval-interval steps (or tokens) and at the end; else none."""
        settings, validation_rows = self.config.training, self.data.validation_rows
        if not (settings.eval_interval or settings.eval_interval_tokens) or not validation_rows:
            return {}
        if not self.is_complete and not self._is_due(settings.eval_interval, settings.eval_interval_tokens):
            return {}
        self.watchdog.mark(self.state.step, "validating")
        first_rows = first_validation_rows(self.config)
        sums, by_source = validate_sources(self.training, self.data.objective, validation_rows, first_rows)
        self.state.validation_loss = sums.loss
        record = validation_record(settings.objective, sums)
        if not first_rows:
            record |= set_record(self.data.validation_set)
        for name, source_sums in by_source.items():
            record |= validation_record(settings.objective, source_sums, f"_{name}")
        return record

    def log(self, report: StepReport, validation: Record) -> None:
        """Write and print a step's figures every --log-interval steps, and with every rare event; collective."""
        due = self.state.step % self.config.training.log_interval == 0
        if not (due or self.is_complete or validation or not report.result.applied):
            return
        slowest_rank, warning = self._stragglers.report()
        record = {
            **report.record(),
            **validation,
            "parameter_norm": parameter_norm(self.training.model),
            "memory_bytes": peak_memory_bytes(self.training.device),
            **slowest_rank,
        }
        if self.metrics is not None:
            self.metrics.write(record)
        self.console.show(record)
        if warning:
            self.console.note(warning)
        self.throughput.reset()

    def save(self) -> None:
        """Save every --save-interval steps (or tokens) and, waiting for the write, before the launch ends."""
        interval, stops = self.config.checkpoint, self.should_stop()
        self.watchdog.mark(self.state.step, "saving")
        self._checkpoints.finish_if_written()
        if stops or self._is_due(interval.save_interval, interval.save_interval_tokens):
            if len(self.data.rows.sources) > 1:
                self.state.source_rows = self.data.rows.blend.counts(self.state.consumed_samples)
            self._checkpoints.save(self.state)
        if stops:
            self._checkpoints.finish()

    def should_stop(self) -> bool:
        """Whether this launch ends after the last step."""
        limit = self.config.training.exit_interval
        limited = bool(limit) and self.state.step - self._first_step >= limit
        return self.is_complete or limited or bool(self.stop_reason)

    def _is_due(self, steps: int, tokens: int) -> bool:
        """Whether the last step ended an interval; one in tokens ends with the step that reaches its multiple."""
        if tokens:
            return self.state.consumed_tokens // tokens > self._tokens_before // tokens
        return bool(steps) and self.state.step % steps == 0

    def summary(self) -> tuple[str, dict[str, str]]:
        """Return a title and the rows of a table: what this launch trained and how to resume."""
        config, state, first, last = self.config, self.state, self._first_report, self._last_report
        rows = {"steps": f"{state.step:,}", "tokens": f"{state.consumed_tokens:,}"}
        if config.training.train_tokens:
            rows["tokens"] += f" of {config.training.train_tokens:,}"
        else:
            rows["steps"] += f" of {config.training.train_iters:,}"
        if first and last:
            rows["loss"] = f"{first.result.sums.loss:.4f} -> {last.result.sums.loss:.4f}"
            rows["tokens/s"] = f"{last.throughput['tokens_per_second']:,.0f}"
        if state.validation_loss is not None:
            rows["validation loss"] = f"{state.validation_loss:.4f}"
        if self.stop_reason:
            rows["stopped by"] = self.stop_reason
        if self.stop_reason and not last:
            rows["checkpoint"] = "none new: stopped before the first step of this launch"
        else:
            rows["checkpoint"] = f"{config.checkpoint.save}/{step_folder_name(state.step)}"
        if not self.is_complete:
            rows["resume with"] = f"--load {config.checkpoint.save}"
        return ("trained" if self.is_complete else "stopped"), rows

    def close(self) -> None:
        """Flush all files and release the terminal."""
        self.profiler.close()
        if self.metrics is not None:
            self.metrics.close()
        self.console.close()
