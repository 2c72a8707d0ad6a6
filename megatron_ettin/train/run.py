"""A launch: claim the folder, then start the process, train or evaluate, and tear down.

What can be refused here is refused before torch and megatron-core are imported.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from megatron_ettin.checkpoint.folder.layout import list_steps, read_run_json, resolve_checkpoint
from megatron_ettin.checkpoint.folder.lock import SaveLock
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.runtime.signals import StopSignals, end_with_launcher, release_signals
from megatron_ettin.train.preflight.checkpoint import Continuation, continuation, trained_as
from megatron_ettin.train.preflight.data_order import refuse_other_data
from megatron_ettin.train.stop import StopRequests, clear_stop


def run(config: RunConfig, notes: Sequence[str] = ()) -> int:
    """Train or evaluate a run that preflight has found fit; return the exit code.

    Args:
        config: the resolved run.
        notes: what preflight found out, told where training begins.

    Raises:
        ConfigError: another run writes to --save, or the run does not go on from what lies there.
    """
    silence_known_warnings()
    end_with_launcher()
    if config.training.eval_only:
        release_signals()
        _import_core(config)
        from megatron_ettin.train.launch import launch_evaluation

        return launch_evaluation(config)
    check_history(config)
    with StopSignals(_tell_stop) as signals:
        return _train(config, notes, StopRequests(signals, config.training.exit_after_minutes))


def _train(config: RunConfig, notes: Sequence[str], requests: StopRequests) -> int:
    # Only rank 0 writes there first and last; where it is refused, the launcher ends the others.
    writes = os.environ.get("RANK", "0") == "0"
    with SaveLock(Path(config.checkpoint.save)) if writes else nullcontext():
        if writes:
            clear_stop(Path(config.checkpoint.save))
        _import_core(config)
        from megatron_ettin.train.launch import launch_training

        return launch_training(config, notes, requests)


def _import_core(config: RunConfig) -> None:
    """Import megatron-core before anything else does, on a CPU without torch's compiler."""
    from megatron_ettin.runtime.device import choose_device

    if choose_device(config.training.device).type == "cpu":
        from megatron_ettin.runtime.cpu_placement import import_core

        import_core()


def _tell_stop(name: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write(f"{name}: stops after this step, with a checkpoint; a second signal ends it at once\n")


def check_history(config: RunConfig) -> None:
    """Refuse what would mix two training histories.

    Raises:
        ConfigError: --save holds checkpoints that --load is not one of, or the order of the data has changed.
    """
    save, places = Path(config.checkpoint.save), config.checkpoint
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
    if continuation(described, config) is not Continuation.RESUME:
        if saved:
            objective, phase = trained_as(described)
            raise ConfigError(
                f"--save {save}: holds --objective {objective} --phase {phase}, which --load {places.load} ends; save "
                f"--objective {config.training.objective} --phase {config.training.phase} elsewhere"
            )
        return
    refuse_other_data(config, described, folder)


_KNOWN = (
    # The layers and the optimizer that are meant here need neither package.
    ("Transformer Engine and Apex are not installed", UserWarning),
    ("Apex is not installed. Falling back to Torch Norm", UserWarning),
    # megatron-core 0.16.1 about its own defaults and calls.
    ("full scope is deprecated. Use empty cuda_graph_scope", UserWarning),
    ("The .grad attribute of a Tensor that is not a leaf Tensor is being accessed", UserWarning),
    ("`load_state_dict` is deprecated", FutureWarning),
    ("`torch.distributed.reduce_scatter_tensor` is deprecated", FutureWarning),
    ("`torch.distributed.all_gather_into_tensor` is deprecated", FutureWarning),
)


def silence_known_warnings() -> None:
    """Keep them off the screen; must run before megatron-core is imported, which is when most are raised."""
    for beginning, category in _KNOWN:
        warnings.filterwarnings("ignore", message=re.escape(beginning), category=category)
