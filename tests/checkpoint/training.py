"""What the checkpoint tests run on every rank: a tiny model, trained on given batches, saved and resumed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.helpers.runs import TINY, tiny_run
from tests.helpers.training import MICRO_BATCHES, save_training, start_training, train_steps


@dataclass(frozen=True)
class Case:
    """One launch: its start, its last step, its layout."""

    steps: int
    objective: str = "mlm"
    load: str = ""
    save: str = ""
    save_at: int = 0
    """Step of the checkpoint; 0 is the last one."""
    dropout: float = 0.0
    overrides: tuple[tuple[str, Any], ...] = ()
    vocab_size: int = TINY.vocab_size


def start(case: Case) -> Any:
    """Return this rank's training with fresh weights, and its counters at step 0."""
    from megatron_ettin.checkpoint.folder.state import TrainingState

    model = replace(TINY, attention_output_dropout=case.dropout, vocab_size=case.vocab_size)
    config = tiny_run(case.objective, model=model, **dict(case.overrides))
    return start_training(config), TrainingState.start(case.objective)


def launch(case: Case) -> dict[str, Any]:
    """Train from ``case.load`` (or from fresh weights) to step ``case.steps``; return what tests compare."""
    from megatron_ettin.checkpoint.folder.layout import read_run_json
    from megatron_ettin.checkpoint.load import LoadResult, load_training

    training, state = start(case)
    config = training.config
    loaded = LoadResult(state, ())
    if case.load:
        loaded = load_training(Path(case.load), read_run_json(Path(case.load)), training.parts, config.training.seed)
    state, folder, losses = loaded.state, "", []
    for stop in sorted({case.save_at or case.steps, case.steps}):
        for result in train_steps(training, range(state.step, stop)):
            state.count_step(MICRO_BATCHES, result.sums.real_tokens)
            losses.append(result.sums.loss)
        if case.save and stop == (case.save_at or case.steps):
            folder = str(save_training(Path(case.save), training, state))
    weights = {name: value.detach().float().numpy().copy() for name, value in training.model.named_parameters()}
    return {"losses": losses, "weights": weights, "state": state, "notes": loaded.notes, "folder": folder}
