"""A launch: claim the folder, then start the process, train or evaluate, and tear down.

What can be refused here is refused before torch and megatron-core are imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from megatron_ettin.checkpoint.layout import list_steps, read_run_json, resolve_checkpoint
from megatron_ettin.checkpoint.lock import SaveLock
from megatron_ettin.config.errors import ConfigError
from megatron_ettin.config.run import RunConfig
from megatron_ettin.runtime.lifeline import end_with_launcher
from megatron_ettin.runtime.signals import StopSignals, release_signals
from megatron_ettin.train.continuation import Continuation, continuation, trained_as
from megatron_ettin.train.data_identity import refuse_other_data
from megatron_ettin.train.known_warnings import silence_known_warnings
from megatron_ettin.train.stop import StopRequests, clear_stop


def run(run: RunConfig, notes: Sequence[str] = ()) -> int:
    """Train or evaluate a run that preflight has found fit; return the exit code.

    Args:
        run: the resolved run.
        notes: what preflight found out, told where training begins.

    Raises:
        ConfigError: another run writes to --save, or the run does not go on from what lies there.
    """
    silence_known_warnings()
    end_with_launcher()
    if run.training.eval_only:
        release_signals()
        from megatron_ettin.train.launch import launch_evaluation

        return launch_evaluation(run)
    check_history(run)
    with StopSignals(_tell_stop) as signals:
        return _train(run, notes, StopRequests(signals, run.training.exit_after_minutes))


def _train(run: RunConfig, notes: Sequence[str], requests: StopRequests) -> int:
    # Only rank 0 writes there first and last; where it is refused, the launcher ends the others.
    writes = os.environ.get("RANK", "0") == "0"
    with SaveLock(Path(run.checkpoint.save)) if writes else nullcontext():
        if writes:
            clear_stop(Path(run.checkpoint.save))
        from megatron_ettin.train.launch import launch_training

        return launch_training(run, notes, requests)


def _tell_stop(name: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write(f"{name}: stops after this step, with a checkpoint; a second signal ends it at once\n")


def check_history(run: RunConfig) -> None:
    """Refuse what would mix two training histories.

    Raises:
        ConfigError: --save holds checkpoints that --load is not one of, or the order of the data has changed.
    """
    save, places = Path(run.checkpoint.save), run.checkpoint
    saved = list_steps(save)
    if not places.load:
        if saved:
            raise ConfigError(
                f"--save {save}: holds checkpoints up to step {saved[-1]}; go on with --load {save}, or save elsewhere"
            )
        return
    folder = resolve_checkpoint(places.load, places.load_step)
    if saved and folder.resolve().parent != save.resolve():
        raise ConfigError(f"--save {save}: holds checkpoints of another run than --load {places.load}; save elsewhere")
    described = read_run_json(folder)
    if continuation(described, run) is not Continuation.RESUME:
        if saved:
            objective, phase = trained_as(described)
            raise ConfigError(
                f"--save {save}: holds --objective {objective} --phase {phase}, which --load {places.load} ends; save "
                f"--objective {run.training.objective} --phase {run.training.phase} elsewhere"
            )
        return
    refuse_other_data(run, described, folder)
