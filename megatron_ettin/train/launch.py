"""The process of a launch: join the group, build the model, restore, train or evaluate, and leave the group."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import torch.distributed

from megatron_ettin.checkpoint.folder.state import TrainingState
from megatron_ettin.checkpoint.load import LoadResult, load_weights
from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.validation_set import ValidationSet
from megatron_ettin.doctor.report import machine_lines
from megatron_ettin.errors import RunFailure
from megatron_ettin.objectives.objective import Objective, build_objective
from megatron_ettin.optim.schedules import build_schedule
from megatron_ettin.runtime.backend import resolve_backend
from megatron_ettin.runtime.device import Device, choose_device, use_deterministic_kernels
from megatron_ettin.runtime.health.rendezvous import find_world
from megatron_ettin.runtime.health.watchdog import Watchdog
from megatron_ettin.runtime.performance import peak_rate
from megatron_ettin.runtime.process import end_process, start_process
from megatron_ettin.train.build import Training, build_training
from megatron_ettin.train.datasets import (
    TrainingData,
    blend_notes,
    build_training_data,
    build_validation_rows,
    open_corpus,
    row_notes,
)
from megatron_ettin.train.loop import train
from megatron_ettin.train.preflight.prepare import PreparedRun
from megatron_ettin.train.resume import record_data_order, restore, verify_checkpoint
from megatron_ettin.train.stop import StopRequests, write_stop
from megatron_ettin.train.telemetry.console import Goal, open_console
from megatron_ettin.train.telemetry.metrics import MetricsFiles, MetricsLog, open_wandb, quality, set_record
from megatron_ettin.train.telemetry.profiler import Profiler, profile_notes
from megatron_ettin.train.telemetry.throughput import Throughput
from megatron_ettin.train.trainer import Trainer
from megatron_ettin.train.validate import bits_per_byte, count_scored_bytes, validate_sources


def launch_training(prepared: PreparedRun, requests: StopRequests) -> int:
    """Train from the planned checkpoint, or from new weights; return 0.

    A launch that was asked to stop writes ``stop.json`` after everything else is on disk.

    Raises:
        RunFailure: on all ranks, after too many skipped steps in a row.
    """
    device, config, backend = _choose_device(prepared.config)
    tokenizer = prepared.tokenizer
    assert tokenizer is not None
    with _process(config, device, tokenizer) as (training, objective, watchdog):
        is_main = training.ranks.is_main
        machine = machine_lines(on_gpu=device.type == "cuda") if is_main else []
        plan = verify_checkpoint(prepared.resume, config, training.ranks) if prepared.resume else None
        restored = restore(training, plan)
        state = restored.state
        order_notes = record_data_order(state, prepared.data_order)
        data = build_training_data(config, tokenizer, objective, state)
        notes = [*machine, backend, *prepared.assumptions, *(plan.notes if plan else ()), *restored.notes]
        notes += [*order_notes, *profile_notes(config, state.step), *row_notes(data.rows)]
        restored = replace(restored, notes=tuple(notes))
        with closing(_open_trainer(training, data, restored, tokenizer, requests, watchdog)) as trainer:
            train(trainer, build_schedule(config.optimizer, config.training))
            if is_main:
                closes = objective.close_every_chunk
                for note in blend_notes(data.rows, state.consumed_samples, close_every_chunk=closes):
                    trainer.console.note(note)
            trainer.console.close(*trainer.summary())
        if trainer.stop_reason:
            if is_main:
                write_stop(Path(config.checkpoint.save), trainer.stop_reason, state.step, state.consumed_tokens)
            # A launcher may end all processes as soon as the first one has ended.
            torch.distributed.barrier()
    return 0


def launch_evaluation(prepared: PreparedRun) -> int:
    """Score the whole validation split with the weights of ``--load``; the main rank writes one JSON object."""
    device, config, _ = _choose_device(prepared.config)
    tokenizer, plan = prepared.tokenizer, prepared.resume
    assert tokenizer is not None
    assert plan is not None
    with _process(config, device, tokenizer) as (training, objective, _):
        folder = verify_checkpoint(plan, config, training.ranks).folder
        load_weights(folder, training.model)
        rows = build_validation_rows(config, open_corpus(config), tokenizer)
        sums, by_source = validate_sources(training, objective, rows, 0)
        if not training.ranks.is_main:
            return 0
        scored_bytes = count_scored_bytes(objective, rows, tokenizer)
        name = config.training.objective
        report = {
            "objective": name,
            "validation_loss": sums.loss,
            "scored_tokens": sums.scored_tokens,
            **quality(name, sums),
            "bits_per_byte": bits_per_byte(sums.loss_sum, scored_bytes),
            "scored_bytes": scored_bytes,
            "tokens": sums.real_tokens,
            **set_record(ValidationSet.of_sources(each.documents() for each in rows)),
            "sources": {
                source: {"validation_loss": own.loss, "scored_tokens": own.scored_tokens, **quality(name, own)}
                for source, own in by_source.items()
            },
            "checkpoint": str(folder),
        }
        sys.stdout.write(json.dumps(report) + "\n")
    return 0


def _choose_device(config: RunConfig) -> tuple[Device, RunConfig, str]:
    """Return the device of this process, the config with the layers chosen for it, and a line on that choice."""
    if config.backend.deterministic:
        use_deterministic_kernels()
    device = choose_device(config.training.device)
    return device, *resolve_backend(config, device)


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
    """Name the rank whose end made a collective fail: the collective's own message names addresses at best."""
    try:
        yield
    except RunFailure:
        raise
    except RuntimeError:
        if lost := watchdog.dead_ranks():
            sys.stderr.write(f"error: {lost}\n")
        raise


def _open_trainer(
    training: Training,
    data: TrainingData,
    restored: LoadResult,
    tokenizer: TokenizerFiles,
    requests: StopRequests,
    watchdog: Watchdog,
) -> Trainer:
    """Open console and metrics files and print the notes."""
    config, device, ranks, state = training.config, training.device, training.ranks, restored.state
    files = MetricsFiles.of(config.checkpoint.save, config.checkpoint.tensorboard_dir)
    console = open_console(is_main=ranks.is_main, goal=_goal(config, state))
    for note in restored.notes:
        console.note(note)
    return Trainer(
        training=training,
        data=data,
        state=state,
        # Read now: the folder may be gone when a checkpoint is saved.
        tokenizer_files=tokenizer.folder_files(),
        console=console,
        metrics=MetricsLog(files, state.step + 1, open_wandb(config)) if ranks.is_main else None,
        requests=requests,
        watchdog=watchdog,
        throughput=Throughput(peak_rate(device, bf16=config.training.bf16) * ranks.world_size),
        profiler=Profiler(config, device, ranks),
    )


def _goal(config: RunConfig, state: TrainingState) -> Goal:
    if config.training.train_tokens:
        return Goal("tokens", state.consumed_tokens, config.training.train_tokens)
    return Goal("step", state.step, config.training.train_iters)
