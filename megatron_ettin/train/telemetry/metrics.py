"""Figures of a run, one record a line in ``metrics.jsonl`` and the same in TensorBoard."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.folder.layout import METRICS_FILE, TENSORBOARD_FOLDER
from megatron_ettin.checkpoint.folder.metrics_file import drop_records_from
from megatron_ettin.config.objectives import OBJECTIVES
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import ConfigError, one_line
from megatron_ettin.train.step import StepResult, Sums

Record = dict[str, float | int]
"""One line; ``step`` and ``tokens`` count from the beginning of the run. A skipped step has ``skipped`` 1."""


def step_record(objective: str, step: int, tokens: int, result: StepResult, learning_rate: float) -> Record:
    """Return the figures of one step. The loss is that step's own, so that a resumed run writes the same lines."""
    return {
        "step": step,
        "tokens": tokens,
        "loss": result.sums.loss,
        **quality(objective, result.sums),
        "scored_tokens": result.sums.scored_tokens,
        "learning_rate": learning_rate,
        "gradient_norm": result.gradient_norm,
    }


def quality(objective: str, sums: Sums) -> Record:
    """Return the objective's quality metric: masked accuracy or perplexity."""
    if OBJECTIVES[objective].quality_metric == "masked_accuracy":
        return {"masked_accuracy": sums.accuracy}
    # Beyond this a float overflows; such a loss is broken anyway.
    return {"perplexity": math.exp(min(sums.loss, 700.0))}


def validation_record(objective: str, sums: Sums, suffix: str = "") -> Record:
    """Return the figures of a validation; those of one source have its name as suffix."""
    figures = {"loss": sums.loss, **quality(objective, sums)}
    return {f"validation_{name}{suffix}": value for name, value in figures.items()}


@dataclass(frozen=True)
class MetricsFiles:
    """Where figures go."""

    jsonl: Path
    tensorboard: Path

    @classmethod
    def of(cls, save: str, tensorboard_dir: str) -> MetricsFiles:
        """Return the places that ``--save`` and ``--tensorboard-dir`` name."""
        return cls(
            Path(save) / METRICS_FILE, Path(tensorboard_dir) if tensorboard_dir else Path(save) / TENSORBOARD_FOLDER
        )


class MetricsLog:
    """Appends records; a step that is trained again replaces its former line."""

    def __init__(self, files: MetricsFiles, first_step: int, wandb: Any | None = None) -> None:
        """Open the files.

        Args:
            files: where to write; folders are made.
            first_step: the first step that may still be written. Lines from there on, which a run left that was
                stopped after its last checkpoint, are dropped.
            wandb: a run of Weights & Biases that gets the figures too.
        """
        from torch.utils.tensorboard import SummaryWriter

        files.jsonl.parent.mkdir(parents=True, exist_ok=True)
        drop_records_from(files.jsonl, first_step)
        self._jsonl = files.jsonl.open("a", encoding="utf-8")
        self._tensorboard = SummaryWriter(str(files.tensorboard), purge_step=first_step)
        self._wandb = wandb

    def write(self, record: Record) -> None:
        """Add one step's figures; they are in the file when this returns."""
        # JSON has no word for what is not a number; a step that was skipped may have such a loss.
        finite = {name: value if math.isfinite(value) else None for name, value in record.items()}
        self._jsonl.write(json.dumps(finite) + "\n")
        self._jsonl.flush()
        for name, value in finite.items():
            if name != "step" and value is not None:
                self._tensorboard.add_scalar(name, value, int(record["step"]))
        if self._wandb is not None:
            self._wandb.log(finite, step=int(record["step"]))

    def close(self) -> None:
        """Write out what is buffered."""
        self._jsonl.close()
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def open_wandb(config: RunConfig) -> Any | None:
    """Return the run of ``--wandb-project``, or None without one.

    Launches that save to one folder go on with one run: its id comes from the folder, unless WANDB_RUN_ID tells it.

    Raises:
        ConfigError: there is no key, or the service refuses.
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
