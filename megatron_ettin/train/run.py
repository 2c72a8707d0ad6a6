"""A launch: claim the folder, then start the process, train or evaluate, and tear down.

What can be refused here is refused before torch and megatron-core are imported.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

from megatron_ettin.checkpoint.layout import list_steps, read_run_json, resolve_checkpoint
from megatron_ettin.checkpoint.lock import SaveLock
from megatron_ettin.config.errors import ConfigError
from megatron_ettin.config.run import RunConfig
from megatron_ettin.train.continuation import Continuation, continuation, trained_as
from megatron_ettin.train.known_warnings import silence_known_warnings


def run(run: RunConfig) -> int:
    """Train or evaluate a run that preflight has found fit; return the exit code.

    Raises:
        ConfigError: another run writes to --save, or the run does not go on from what lies there.
    """
    silence_known_warnings()
    if run.training.eval_only:
        from megatron_ettin.train.launch import launch_evaluation

        return launch_evaluation(run)
    check_history(run)
    # Only rank 0 writes there first and last; where it is refused, the launcher ends the others.
    writes = os.environ.get("RANK", "0") == "0"
    with SaveLock(Path(run.checkpoint.save)) if writes else nullcontext():
        from megatron_ettin.train.launch import launch_training

        return launch_training(run)


def check_history(run: RunConfig) -> None:
    """Refuse what would mix two training histories.

    Raises:
        ConfigError: --save holds checkpoints that --load is not one of, or the position in the training order cannot
            be kept.
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
    steps, samples = described["step"], described["consumed_samples"]
    if samples != steps * run.training.global_batch_size:
        raise ConfigError(
            f"--global-batch-size {run.training.global_batch_size}: the {steps} steps of {folder} took {samples} rows; "
            "the order of the data goes on with the same batch size only"
        )
