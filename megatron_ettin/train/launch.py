"""The process of a launch: parallel groups, model, checkpoint, loop, and the way out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch.distributed

from megatron_ettin.checkpoint.folder.state import TrainingState
from megatron_ettin.checkpoint.load import LoadResult, load_weights
from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.batch_plan import StepPlan
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.training_rows import TrainingRows
from megatron_ettin.doctor.report import machine_lines
from megatron_ettin.errors import RunFailure
from megatron_ettin.objectives.objective import Objective, build_objective
from megatron_ettin.optim.schedules import build_schedule
from megatron_ettin.runtime.backend import resolve_backend
from megatron_ettin.runtime.device import Device, be_deterministic, choose_device, peak_rate
from megatron_ettin.runtime.health.rendezvous import find_world
from megatron_ettin.runtime.health.watchdog import Watchdog
from megatron_ettin.runtime.process import end_process, start_process
from megatron_ettin.train.build import Training, build_training
from megatron_ettin.train.datasets import (
    Source,
    blend_notes,
    build_training_rows,
    build_validation_rows,
    open_corpus,
    row_notes,
)
from megatron_ettin.train.loop import train
from megatron_ettin.train.prefetch import pinned, plan_steps, step_batches
from megatron_ettin.train.preflight.prepare import PreparedRun
from megatron_ettin.train.resume import record_data_order, restore, verify_checkpoint
from megatron_ettin.train.stop import StopRequests, write_stop
from megatron_ettin.train.summary import summary
from megatron_ettin.train.telemetry.console import Goal, open_screen
from megatron_ettin.train.telemetry.metrics import MetricsFiles, MetricsLog, open_wandb, quality
from megatron_ettin.train.telemetry.profiler import Profiler, profile_notes
from megatron_ettin.train.telemetry.throughput import Pace
from megatron_ettin.train.trainer import Session
from megatron_ettin.train.validate import bits_per_byte, count_scored_bytes, validate_sources


def launch_training(prepared: PreparedRun, requests: StopRequests) -> int:
    """Train from the planned checkpoint, or from fresh weights; return 0.

    A launch that was asked to stop leaves ``stop.json``, when everything else is on the disk.

    Raises:
        RunFailure: on all ranks, after too many skipped steps in a row.
    """
    device, (config, kernels) = _choose(prepared.config)
    tokenizer = prepared.tokenizer
    assert tokenizer is not None
    with _process(config, device, tokenizer) as (training, objective, watchdog):
        machine = machine_lines(on_gpu=device.type == "cuda") if training.ranks.is_main else []
        plan = verify_checkpoint(prepared.resume, config, training.ranks) if prepared.resume else None
        restored = restore(training, plan)
        data = (
            *record_data_order(restored.state, prepared.data_order),
            *profile_notes(config, restored.state.step),
        )
        corpus = open_corpus(config)
        rows = build_training_rows(config, corpus, tokenizer)
        steps = plan_steps(config, rows, objective, restored.state)
        before = (*prepared.assumptions, *(plan.notes if plan else ()))
        restored = replace(restored, notes=(*machine, kernels, *before, *restored.notes, *data, *row_notes(rows)))
        parts = (training, objective, tokenizer, corpus, rows, steps, restored)
        with closing(_open_session(*parts, requests, watchdog)) as session:
            build_batches = partial(step_batches, steps, rows, objective, training.ranks)
            train(session, pinned(build_batches, device), build_schedule(config.optimizer, config.training))
            if training.ranks.is_main:
                for note in blend_notes(rows, session.state.consumed_samples, objective.close_every_chunk):
                    session.screen.note(note)
            session.screen.close(*summary(session))
        if session.stop_reason:
            if training.ranks.is_main:
                state = session.state
                write_stop(Path(config.checkpoint.save), session.stop_reason, state.step, state.consumed_tokens)
            # A launcher may end everything as soon as the first rank has ended.
            torch.distributed.barrier()
    return 0


def launch_evaluation(prepared: PreparedRun) -> int:
    """Score the whole validation split with the weights of ``--load``; the main rank writes one JSON object."""
    device, (config, _) = _choose(prepared.config)
    tokenizer, plan = prepared.tokenizer, prepared.resume
    assert tokenizer is not None
    assert plan is not None
    with _process(config, device, tokenizer) as (training, objective, _):
        plan = verify_checkpoint(plan, config, training.ranks)
        load_weights(plan.folder, training.model)
        rows = build_validation_rows(config, open_corpus(config), tokenizer)
        sums, by_source = validate_sources(training, objective, rows, 0)
        scored_bytes = count_scored_bytes(objective, rows, tokenizer) if training.ranks.is_main else None
        name = config.training.objective
        report = {
            "objective": name,
            "validation_loss": sums.loss,
            "scored_tokens": sums.scored_tokens,
            **quality(name, sums),
            "bits_per_byte": bits_per_byte(sums.loss_sum, scored_bytes),
            "scored_bytes": scored_bytes,
            "tokens": sums.real_tokens,
            "sources": {
                source: {"validation_loss": own.loss, "scored_tokens": own.scored_tokens, **quality(name, own)}
                for source, own in by_source.items()
            },
            "checkpoint": str(plan.folder),
        }
        if training.ranks.is_main:
            sys.stdout.write(json.dumps(report) + "\n")
    return 0


def _choose(config: RunConfig) -> tuple[Device, tuple[RunConfig, str]]:
    """Return where this process computes and, for that, the run with its kernels decided and a line about them."""
    if config.backend.deterministic:
        be_deterministic()
    device = choose_device(config.training.device)
    return device, resolve_backend(config, device)


@contextmanager
def _process(
    config: RunConfig, device: Device, tokenizer: TokenizerFiles
) -> Iterator[tuple[Training, Objective, Watchdog]]:
    """Join the process group and build the model; leave the group at the end, also after an exception."""
    objective = build_objective(config, tokenizer)
    timeout = config.parallel.timeout_seconds
    world = find_world(timeout)
    try:
        with Watchdog(world, timeout) as watchdog, _lost_ranks_named(watchdog):
            ranks = start_process(config, device, world)
            yield build_training(config, objective.traits.mask_kind, device, ranks), objective, watchdog
            end_process()
    finally:
        end_process()


@contextmanager
def _lost_ranks_named(watchdog: Watchdog) -> Iterator[None]:
    """Say which rank is gone where a collective failed because one is: its own message names addresses at best."""
    try:
        yield
    except RunFailure:
        raise
    except RuntimeError:
        if told := watchdog.who_is_gone():
            sys.stderr.write(f"error: {told}\n")
        raise


def _open_session(
    training: Training,
    objective: Objective,
    tokenizer: TokenizerFiles,
    corpus: Sequence[Source],
    rows: TrainingRows,
    plan: StepPlan,
    found: LoadResult,
    requests: StopRequests,
    watchdog: Watchdog,
) -> Session:
    config, is_main, step = training.config, training.ranks.is_main, found.state.step
    files = MetricsFiles.of(config.checkpoint.save, config.checkpoint.tensorboard_dir)
    screen = open_screen(is_main=is_main, goal=_goal(config, found.state))
    for note in found.notes:
        screen.note(note)
    return Session(
        training=training,
        objective=objective,
        state=found.state,
        rows=rows,
        plan=plan,
        validation_rows=build_validation_rows(config, corpus, tokenizer),
        # Read now: a folder may be gone by the time of a save.
        tokenizer_files=tokenizer.folder_files(),
        screen=screen,
        metrics=MetricsLog(files, step + 1, open_wandb(config)) if is_main else None,
        requests=requests,
        watchdog=watchdog,
        pace=Pace(peak_rate(training.device, bf16=config.training.bf16) * training.ranks.world_size),
        profiler=Profiler(config, training.device, training.ranks),
    )


def _goal(config: RunConfig, state: TrainingState) -> Goal:
    if config.training.train_tokens:
        return Goal("tokens", state.consumed_tokens, config.training.train_tokens)
    return Goal("step", state.step, config.training.train_iters)
