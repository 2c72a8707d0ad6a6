"""The process of a launch: parallel groups, model, checkpoint, loop, and the way out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial

from megatron_ettin.checkpoint.layout import resolve_checkpoint
from megatron_ettin.checkpoint.load import LoadResult, load_weights
from megatron_ettin.checkpoint.state import TrainingState
from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.tokenizer import TokenizerFiles
from megatron_ettin.objectives.objective import Objective, build_objective
from megatron_ettin.optim.schedules import build_schedule
from megatron_ettin.runtime.device import choose_device
from megatron_ettin.runtime.process import end_process, start_process
from megatron_ettin.train.build import Training, build_training
from megatron_ettin.train.feed import Corpus, build_training_rows, build_validation_rows, open_corpus, step_batches
from megatron_ettin.train.loop import train
from megatron_ettin.train.metrics import MetricsFiles, MetricsLog, quality
from megatron_ettin.train.screen import Goal, open_screen
from megatron_ettin.train.session import Session
from megatron_ettin.train.summary import summary
from megatron_ettin.train.take_up import take_up
from megatron_ettin.train.validate import validate


def launch_training(run: RunConfig) -> int:
    """Train from where ``--load`` stands, or from fresh weights; return 0."""
    with _process(run) as (training, objective, tokenizer):
        found = take_up(training)
        corpus = open_corpus(run)
        rows = build_training_rows(run, corpus, tokenizer)
        with closing(_open_session(training, objective, tokenizer, corpus, found)) as session:
            build_batches = partial(step_batches, run, rows, objective, training.ranks)
            train(session, build_batches, build_schedule(run.optimizer, run.training))
            session.screen.close(*summary(session))
    return 0


def launch_evaluation(run: RunConfig) -> int:
    """Score the whole validation split with the weights of ``--load``; the main rank writes one JSON object."""
    with _process(run) as (training, objective, tokenizer):
        folder = resolve_checkpoint(run.checkpoint.load, run.checkpoint.load_step)
        load_weights(folder, training.model)
        rows = build_validation_rows(run, open_corpus(run), tokenizer)
        sums = validate(training, objective, rows, len(rows))
        report = {
            "objective": run.training.objective,
            "validation_loss": sums.loss,
            "scored_tokens": sums.scored_tokens,
            **quality(run.training.objective, sums),
            "tokens": sums.real_tokens,
            "checkpoint": str(folder),
        }
        if training.ranks.is_main:
            sys.stdout.write(json.dumps(report) + "\n")
    return 0


@contextmanager
def _process(run: RunConfig) -> Iterator[tuple[Training, Objective, TokenizerFiles]]:
    """Join the world and build; leave it at the end, also when something raised."""
    device = choose_device(run.training.device)
    tokenizer = TokenizerFiles.load(run.data.tokenizer_model)
    objective = build_objective(run, tokenizer)
    try:
        ranks = start_process(run, device)
        yield build_training(run, objective.mask_kind, device, ranks), objective, tokenizer
    finally:
        end_process()


def _open_session(
    training: Training, objective: Objective, tokenizer: TokenizerFiles, corpus: Corpus, found: LoadResult
) -> Session:
    run, is_main, step = training.run, training.ranks.is_main, found.state.step
    files = MetricsFiles.of(run.checkpoint.save, run.checkpoint.tensorboard_dir)
    screen = open_screen(is_main=is_main, goal=_goal(run, found.state))
    for note in found.notes:
        screen.note(note)
    return Session(
        training=training,
        objective=objective,
        state=found.state,
        validation_rows=build_validation_rows(run, corpus, tokenizer),
        # Read now: a folder may be gone by the time of a save.
        tokenizer_files={name: path.read_bytes() for name, path in tokenizer.folder_files().items()},
        screen=screen,
        metrics=MetricsLog(files, first_step=step + 1) if is_main else None,
    )


def _goal(run: RunConfig, state: TrainingState) -> Goal:
    if run.training.train_tokens:
        return Goal("tokens", state.consumed_tokens, run.training.train_tokens)
    return Goal("step", state.step, run.training.train_iters)
