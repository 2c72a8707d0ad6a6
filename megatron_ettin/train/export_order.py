"""Reconstruct the training order of a run from its checkpoints and write it as parquet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.folder.layout import TOKENIZER_FOLDER, list_steps, read_run_json, step_folder_name
from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.batch_plan import StepPlan
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.fingerprint import changed_causes, order_fingerprint
from megatron_ettin.data.training_order import ChunkDelimiters, Interval, write_interval, written_intervals
from megatron_ettin.data.training_rows import TrainingRows
from megatron_ettin.errors import ConfigError
from megatron_ettin.objectives.objective import close_every_chunk
from megatron_ettin.train.datasets import batch_rule, build_training_rows, open_corpus


@dataclass(frozen=True)
class _Progress:
    """Counters of a run after some step."""

    step: int = 0
    row: int = 0
    tokens: int = 0


def export_training_order(save: Path, output: Path, report: Callable[[str], None]) -> None:
    """Write one folder per checkpoint of a run; existing ones are kept.

    An earlier export is continued where it ended, even if checkpoints that it used are gone: no step is written twice.
    The steps between two checkpoints are computed with the settings of the later one and must end at its row, so a run
    whose batches changed between checkpoints that are gone is refused.

    Args:
        save: the run's ``--save`` folder.
        output: the folder to write to.
        report: receives lines of progress.

    Raises:
        ConfigError: the run has no checkpoint, its corpora are not those it was trained on, data changed between
            checkpoints that are gone, the steps before a checkpoint do not end at its row, or the output belongs to
            another run.
    """
    steps = list_steps(save)
    if not steps:
        raise ConfigError(f"--load {save}: has no complete checkpoint")
    done, rows = _Progress(), None
    written = written_intervals(output)
    for step in steps:
        checkpoint = save / step_folder_name(step)
        run_json = read_run_json(checkpoint)
        end = _Progress(step, run_json["consumed_samples"], run_json["consumed_tokens"])
        while (known := written.get(done.step)) is not None and known[0].last_step <= step:
            interval, tokens = known
            report(f"{interval.folder_name}: already written")
            done = _Progress(interval.last_step, interval.last_row, done.tokens + tokens)
        if done.step == step and done != end:
            raise ConfigError(f"--output {output}: contains the order of another run up to step {step}")
        if done.step < step:
            _refuse_lost_change(checkpoint, run_json, done, end)
            if rows is None or rows.run_json["data_order"] != run_json["data_order"]:
                rows = _CheckpointRows.open(checkpoint, run_json)
            interval = Interval(done.step, end.step, done.row, end.row)
            folder = _write(replace(rows, checkpoint=checkpoint, run_json=run_json), interval, done.tokens, output)
            report(f"{folder}: rows {interval.first_row:,} to {interval.last_row - 1:,}")
        done = end


def _refuse_lost_change(checkpoint: Path, run_json: dict[str, Any], done: _Progress, end: _Progress) -> None:
    """Refuse an interval in which the data changed: only the checkpoint at the change contains its previous order."""
    for change in run_json.get("data_changes", []):
        if done.step < change["step"] < end.step:
            causes = ", ".join(change["changed"])
            raise ConfigError(
                f"--load {checkpoint}: its data changed at step {change['step']} ({causes}), and the checkpoint of "
                "that step, which contains the previous order, is gone"
            )


@dataclass(frozen=True)
class _CheckpointRows:
    """The rows of a run with the settings of one checkpoint."""

    checkpoint: Path
    run_json: dict[str, Any]
    tokenizer: TokenizerFiles
    rows: TrainingRows

    @classmethod
    def open(cls, checkpoint: Path, run_json: dict[str, Any]) -> _CheckpointRows:
        config = RunConfig.from_dict(run_json["config"])
        tokenizer = TokenizerFiles.load(checkpoint / TOKENIZER_FOLDER).as_trained(run_json.get("data_order"))
        changed = changed_causes(run_json.get("data_order", {}), order_fingerprint(config, tokenizer))
        if changed:
            causes = ", ".join(changed)
            raise ConfigError(f"--load {checkpoint}: the corpora are not those it was trained on; changed: {causes}")
        return cls(checkpoint, run_json, tokenizer, build_training_rows(config, open_corpus(config), tokenizer))

    def plan(self, interval: Interval, tokens: int) -> StepPlan:
        """Return the rows of each step of an interval, before which ``tokens`` were trained."""
        config = RunConfig.from_dict(self.run_json["config"])
        rule = batch_rule(config, close_every_chunk=close_every_chunk(config))
        return StepPlan(rule, self.rows, step=interval.first_step, sample=interval.first_row, tokens=tokens)


def _write(rows: _CheckpointRows, interval: Interval, tokens: int, output: Path) -> Path:
    """Write an interval, before which ``tokens`` were trained, and return its folder."""
    end = rows.plan(interval, tokens).of(interval.last_step - 1).stop
    if end != interval.last_row:
        raise ConfigError(
            f"--load {rows.checkpoint}: its {interval.last_step} steps took {interval.last_row} rows, and by its "
            f"settings they take {end}: batches were changed between checkpoints that are gone"
        )
    tokenizer = rows.tokenizer
    config = RunConfig.from_dict(rows.run_json["config"])
    sep_id = tokenizer.closing_id(config.training.objective)
    assert tokenizer.cls_id is not None
    assert sep_id is not None
    delimiters = ChunkDelimiters(tokenizer.cls_id, sep_id, close_every_chunk(config))
    # A plan forgets steps that are long past, so a new one starts over.
    return write_interval(interval, rows.plan(interval, tokens), rows.rows, delimiters, output)
