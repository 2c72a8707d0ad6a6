"""Figures of a run: one record per line of ``metrics.jsonl``, also sent to TensorBoard and Weights & Biases."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.folder.layout import METRICS_FILE, TENSORBOARD_FOLDER
from megatron_ettin.checkpoint.folder.metrics_file import drop_records_from
from megatron_ettin.config.objectives import OBJECTIVES
from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.validation_set import ValidationSet
from megatron_ettin.errors import ConfigError, one_line
from megatron_ettin.train.step import StepResult, Sums

Record = dict[str, Any]
"""One line: numbers, and the hash of the validation's documents; ``step`` and ``tokens`` count from the start of the
phase. A skipped step has ``skipped`` 1."""


@dataclass(frozen=True)
class StepReport:
    """One training step as it is logged. The loss is not smoothed, so a resumed run logs the same figures."""

    objective: str
    step: int
    """1-based."""
    tokens: int
    """Real tokens trained up to and including this step."""
    result: StepResult
    learning_rate: float
    throughput: Record = field(default_factory=dict)
    """Means since the previous record."""
    mask_ratio: float | None = None
    """None if the objective does not mask tokens."""

    def record(self) -> Record:
        """Return the figures under their names in ``metrics.jsonl``."""
        sums = self.result.sums
        return {
            "step": self.step,
            "tokens": self.tokens,
            "loss": sums.loss,
            **quality(self.objective, sums),
            "scored_tokens": sums.scored_tokens,
            "learning_rate": self.learning_rate,
            "gradient_norm": self.result.gradient_norm,
            **self.throughput,
            **({} if self.mask_ratio is None else {"mask_ratio": self.mask_ratio}),
            **({} if self.result.applied else {"skipped": 1}),
        }


def quality(objective: str, sums: Sums) -> Record:
    """Return the objective's quality metric: masked accuracy or perplexity."""
    if OBJECTIVES[objective].quality_metric == "masked_accuracy":
        return {"masked_accuracy": sums.accuracy}
    # exp overflows above this.
    return {"perplexity": math.exp(min(sums.loss, 700.0))}


def validation_record(objective: str, sums: Sums, suffix: str = "") -> Record:
    """Return the figures of a validation; those of a single source have its name as suffix."""
    figures = {"loss": sums.loss, **quality(objective, sums)}
    return {f"validation_{name}{suffix}": value for name, value in figures.items()}


def set_record(documents: ValidationSet) -> Record:
    """Return what identifies the documents of a validation."""
    return {
        "validation_documents": documents.documents,
        "validation_tokens": documents.tokens,
        "validation_set": documents.digest,
    }


@dataclass(frozen=True)
class MetricsFiles:
    """Where the figures of a run are stored."""

    jsonl: Path
    tensorboard: Path

    @classmethod
    def of(cls, save: str, tensorboard_dir: str) -> MetricsFiles:
        """Return the paths that follow from ``--save`` and ``--tensorboard-dir``."""
        return cls(
            Path(save) / METRICS_FILE, Path(tensorboard_dir) if tensorboard_dir else Path(save) / TENSORBOARD_FOLDER
        )


class MetricsLog:
    """Appends records; a step that is trained again replaces its previous record."""

    def __init__(self, files: MetricsFiles, first_step: int, wandb: Any | None = None) -> None:
        """Open the files.

        Args:
            files: where to write; folders are created.
            first_step: the first step of this launch. Later records, of steps after the checkpoint it resumes from,
                are deleted.
            wandb: a run of Weights & Biases.
        """
        from torch.utils.tensorboard import SummaryWriter

        files.jsonl.parent.mkdir(parents=True, exist_ok=True)
        drop_records_from(files.jsonl, first_step)
        self._jsonl = files.jsonl.open("a", encoding="utf-8")
        self._tensorboard = SummaryWriter(str(files.tensorboard), purge_step=first_step)
        self._wandb = wandb

    def write(self, record: Record) -> None:
        """Append a record; it is in the file when this returns."""
        # JSON has no NaN or infinity, which the loss of a skipped step may be.
        finite = {
            name: value if isinstance(value, str) or math.isfinite(value) else None for name, value in record.items()
        }
        self._jsonl.write(json.dumps(finite) + "\n")
        self._jsonl.flush()
        for name, value in finite.items():
            if name != "step" and value is not None and not isinstance(value, str):
                self._tensorboard.add_scalar(name, value, int(record["step"]))
        if self._wandb is not None:
            self._wandb.log(finite, step=int(record["step"]))

    def close(self) -> None:
        """Flush and close all files."""
        self._jsonl.close()
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def open_wandb(config: RunConfig) -> Any | None:
    """Return the run of ``--wandb-project``, or None without one.

    Launches that save to the same folder continue the same run: its id follows from the folder unless WANDB_RUN_ID
    sets it.

    Raises:
        ConfigError: there is no API key, or the service rejects it.
    """
    project = config.checkpoint.wandb_project
    if not project:
        return None
    wandb: Any = importlib.import_module("wandb")
    save = Path(config.checkpoint.save).resolve()
    try:
        return wandb.init(
            project=project,
            id=hashlib.sha256(str(save).encode()).hexdigest()[:16],
            name=save.name,
            dir=str(save),
            config=config.to_dict(),
            resume="allow",
        )
    except wandb.errors.Error as error:
        raise ConfigError(
            f"--wandb-project {project}: {one_line(error)} (WANDB_MODE=offline needs no account)"
        ) from error
