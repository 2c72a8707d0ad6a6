"""A run under way: what happens between two steps."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megatron_ettin.checkpoint.save import save_checkpoint
from megatron_ettin.checkpoint.state import TrainingState
from megatron_ettin.config.attention import MASKING_OBJECTIVES
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.time_units import is_complete
from megatron_ettin.data.rows import Row
from megatron_ettin.objectives.objective import Objective
from megatron_ettin.train.build import Training
from megatron_ettin.train.metrics import MetricsLog, Record, quality, step_record
from megatron_ettin.train.results import StepResult
from megatron_ettin.train.screen import Screen
from megatron_ettin.train.validate import validate


@dataclass
class Session:
    """One launch of a run. All ranks decide alike, from the step alone; what they may not share is None or silent."""

    training: Training
    objective: Objective
    state: TrainingState
    validation_rows: Sequence[Row]
    tokenizer_files: Mapping[str, bytes]
    screen: Screen
    metrics: MetricsLog | None
    record: Record = field(init=False, default_factory=dict)
    """Figures of the latest step."""
    first_record: Record = field(init=False, default_factory=dict)
    """Figures of this launch's first step."""
    _first_step: int = field(init=False)
    _tokens_before: int = field(init=False, default=0)
    """Trained before the latest step."""
    _tokens_since_log: int = field(init=False, default=0)
    _seconds_since_log: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._first_step = self.state.step

    @property
    def run(self) -> RunConfig:
        """The resolved config."""
        return self.training.run

    @property
    def is_complete(self) -> bool:
        """Whether the run has made all its steps, or trained all its tokens."""
        return is_complete(self.run.training, self.state.step, self.state.consumed_tokens)

    @property
    def steps_ahead(self) -> range:
        """The steps (0-based) that may come; how many a run in tokens takes is known at its end."""
        first = self.state.step
        return range(first, first if self.is_complete else self.run.training.train_iters or sys.maxsize)

    def count(self, result: StepResult, learning_rate: float, seconds: float) -> None:
        """Note a step that was made."""
        self._tokens_before = self.state.consumed_tokens
        self.state.count_step(self.run.training.global_batch_size, result.sums.real_tokens)
        self._tokens_since_log += result.sums.real_tokens
        self._seconds_since_log += seconds
        pace = self._tokens_since_log / max(self._seconds_since_log, 1e-9)
        name = self.run.training.objective
        self.record = step_record(name, self.state.step, self.state.consumed_tokens, result, learning_rate, pace)
        if name in MASKING_OBJECTIVES:
            self.record["mask_ratio"] = self.run.data.mlm_probability
        self.first_record = self.first_record or self.record

    def evaluate(self) -> None:
        """Measure the validation loss, every --eval-interval steps (or tokens) and at the end of the run."""
        settings = self.run.training
        if not (settings.eval_interval or settings.eval_interval_tokens) or not len(self.validation_rows):
            return
        if self.is_complete or self._is_due(settings.eval_interval, settings.eval_interval_tokens):
            limit = settings.eval_iters * settings.global_batch_size or len(self.validation_rows)
            sums = validate(self.training, self.objective, self.validation_rows, limit)
            self.state.validation_loss = sums.loss
            self.record |= {"validation_loss": sums.loss, **quality(settings.objective, sums, "validation_")}

    def log(self) -> None:
        """Write and show the step's figures, every --log-interval steps, with a validation, and at the end."""
        due = self.state.step % self.run.training.log_interval == 0
        if due or self.is_complete or "validation_loss" in self.record:
            if self.metrics is not None:
                self.metrics.write(self.record)
            self.screen.show(self.record)
            self._tokens_since_log, self._seconds_since_log = 0, 0.0

    def save(self) -> None:
        """Write a checkpoint, every --save-interval steps (or tokens) and before the launch ends."""
        places, training = self.run.checkpoint, self.training
        if self._is_due(places.save_interval, places.save_interval_tokens) or self.stop():
            folder = save_checkpoint(
                Path(places.save),
                self.run,
                self.state,
                training.model,
                training.optimizer,
                training.ranks,
                training.device,
                self.tokenizer_files,
            )
            self.screen.note(f"saved {folder}")

    def stop(self) -> bool:
        """Whether this launch ends with the step just made."""
        limit = self.run.training.exit_interval
        return self.is_complete or (bool(limit) and self.state.step - self._first_step >= limit)

    def _is_due(self, steps: int, tokens: int) -> bool:
        """Whether the latest step ended an interval; of tokens one ends with the step that reaches its multiple."""
        if tokens:
            return self.state.consumed_tokens // tokens > self._tokens_before // tokens
        return bool(steps) and self.state.step % steps == 0

    def close(self) -> None:
        """Write out what is buffered and free the terminal."""
        if self.metrics is not None:
            self.metrics.close()
        self.screen.close()
