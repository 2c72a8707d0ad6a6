"""The training order of a run, worked out again from its checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
class _Place:
    """How far a run was."""

    step: int = 0
    row: int = 0
    tokens: int = 0


def export_training_order(save: Path, output: Path, say: Callable[[str], None]) -> None:
    """Write one folder for each checkpoint of a run; those that are there already are left as they are.

    An earlier export is gone on from where it ended, although checkpoints that it saw are gone: no step comes twice.
    Steps and rows between two checkpoints are those of the later one's settings. Whether they end where that checkpoint
    says is checked, so a run whose batches were changed between checkpoints that are gone is refused.

    Args:
        save: the run's ``--save`` folder.
        output: where to write.
        say: takes lines of progress.

    Raises:
        ConfigError: the run has no checkpoint, its corpora are not those it was trained on, data was changed between
            checkpoints that are gone, an interval does not end where its checkpoint says, or the output is of another
            run.
    """
    steps = list_steps(save)
    if not steps:
        raise ConfigError(f"--load {save}: has no complete checkpoint")
    before, known = _Place(), None
    written = written_intervals(output)
    for step in steps:
        checkpoint = save / step_folder_name(step)
        described = read_run_json(checkpoint)
        here = _Place(step, described["consumed_samples"], described["consumed_tokens"])
        while (found := written.get(before.step)) is not None and found[0].last_step <= step:
            say(f"{found[0].folder_name}: was there before")
            before = _Place(found[0].last_step, found[0].last_row, before.tokens + found[1])
        if before.step == step and before != here:
            raise ConfigError(f"--output {output}: holds the order of another run up to step {step}")
        if before.step < step:
            _refuse_lost_change(checkpoint, described, before, here)
            interval = Interval(before.step, here.step, before.row, here.row)
            if known is None or known.described["data_order"] != described["data_order"]:
                known = _Opened.of(checkpoint, described)
            folder = _write(known, checkpoint, described, before, interval, output)
            say(f"{folder}: rows {interval.first_row:,} to {interval.last_row - 1:,}")
        before = here


def _refuse_lost_change(checkpoint: Path, described: dict[str, Any], before: _Place, here: _Place) -> None:
    """Refuse an interval in which the data was changed: only checkpoints tell what it was."""
    for change in described.get("data_changes", []):
        if before.step < change["step"] < here.step:
            what = ", ".join(change["changed"])
            raise ConfigError(
                f"--load {checkpoint}: its data changed at step {change['step']} ({what}), and the checkpoint of that "
                "step, which tells what it was before, is gone"
            )


@dataclass(frozen=True)
class _Opened:
    """The rows of a run, as a checkpoint tells them."""

    described: dict[str, Any]
    tokenizer: TokenizerFiles
    rows: TrainingRows

    @classmethod
    def of(cls, checkpoint: Path, described: dict[str, Any]) -> _Opened:
        run = _run_of(described)
        tokenizer = TokenizerFiles.load(checkpoint / TOKENIZER_FOLDER)
        changed = changed_causes(described.get("data_order", {}), order_fingerprint(run, tokenizer))
        if changed:
            what = ", ".join(changed)
            raise ConfigError(f"--load {checkpoint}: the corpora are not those it was trained on; changed: {what}")
        return cls(described, tokenizer, build_training_rows(run, open_corpus(run), tokenizer))


def _write(
    known: _Opened, checkpoint: Path, described: dict[str, Any], before: _Place, interval: Interval, output: Path
) -> Path:
    run, tokenizer = _run_of(described), known.tokenizer
    assert tokenizer.cls_id is not None
    assert tokenizer.sep_id is not None
    closes = close_every_chunk(run)
    rule = batch_rule(run, close_every_chunk=closes)
    plan = StepPlan(rule, known.rows, step=before.step, sample=before.row, tokens=before.tokens)
    end = _end_of(plan, interval)
    if end != interval.last_row:
        raise ConfigError(
            f"--load {checkpoint}: its {interval.last_step} steps took {interval.last_row} rows, and by its settings "
            f"they take {end}: batches were changed between checkpoints that are gone"
        )
    plan = StepPlan(rule, known.rows, step=before.step, sample=before.row, tokens=before.tokens)
    delimiters = ChunkDelimiters(tokenizer.cls_id, tokenizer.sep_id, closes)
    return write_interval(interval, plan, known.rows, delimiters, output)


def _end_of(plan: StepPlan, interval: Interval) -> int:
    return plan.of(interval.last_step - 1).stop


def _run_of(described: dict[str, Any]) -> RunConfig:
    return RunConfig.from_dict(described["config"])
