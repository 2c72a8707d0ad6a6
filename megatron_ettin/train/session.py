"""A run under way: what the loop does between two steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megatron_ettin.checkpoint.save import save_checkpoint
from megatron_ettin.checkpoint.state import TrainingState
from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.rows import Row
from megatron_ettin.objectives.objective import Objective
from megatron_ettin.train.build import Training
from megatron_ettin.train.metrics import MetricsLog, Record, quality, step_record
from megatron_ettin.train.screen import Screen
from megatron_ettin.train.step import StepResult
from megatron_ettin.train.validate import validate


@dataclass
class Session:
    """One launch of a run. Every rank has one and decides alike; only the main rank's screen and metrics are real."""

    training: Training
    objective: Objective
    state: TrainingState
    validation_rows: Sequence[Row]
    tokenizer_files: Sequence[Path]
    screen: Screen
    metrics: MetricsLog | None
    """None on the ranks that write none."""
    first_step: int = 0
    """Steps made before this launch."""
    first_record: Record = field(default_factory=dict)
    last_record: Record = field(default_factory=dict)
    saved_folder: Path | None = None
    _tokens_since_log: int = 0
    _seconds_since_log: float = 0.0
    _validated_step: int = -1
    _result: StepResult | None = None
    _learning_rate: float = 0.0

    @property
    def run(self) -> RunConfig:
        """The resolved config."""
        return self.training.run
