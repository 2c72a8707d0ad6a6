"""Launch a prepared run: lock its folder, then train or evaluate. What can be refused is refused before torch loads."""

from __future__ import annotations

import os
import re
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

from megatron_ettin.checkpoint.folder.lock import SaveLock
from megatron_ettin.config.run import RunConfig
from megatron_ettin.runtime.signals import StopSignals, end_with_launcher, release_signals
from megatron_ettin.train.preflight.history import check_history
from megatron_ettin.train.preflight.prepare import PreparedRun
from megatron_ettin.train.stop import StopRequests, clear_stop

_EXPECTED_WARNINGS = (
    # The layers and the optimizer of this package need neither library.
    ("Transformer Engine and Apex are not installed", UserWarning),
    ("Apex is not installed. Falling back to Torch Norm", UserWarning),
    # megatron-core 0.16.1 warns of its own defaults and calls.
    ("full scope is deprecated. Use empty cuda_graph_scope", UserWarning),
    ("The .grad attribute of a Tensor that is not a leaf Tensor is being accessed", UserWarning),
    ("`load_state_dict` is deprecated", FutureWarning),
    ("`torch.distributed.reduce_scatter_tensor` is deprecated", FutureWarning),
    ("`torch.distributed.all_gather_into_tensor` is deprecated", FutureWarning),
)


def run(prepared: PreparedRun) -> int:
    """Train or evaluate a prepared run; return the exit code.

    Raises:
        ConfigError: another run writes to ``--save``, or training must not continue there.
    """
    silence_expected_warnings()
    end_with_launcher()
    if prepared.config.training.eval_only:
        release_signals()
        _import_core(prepared.config)
        from megatron_ettin.train.launch import launch_evaluation

        return launch_evaluation(prepared)
    check_history(prepared)
    with StopSignals(_announce_stop) as signals:
        return _train(prepared, StopRequests(signals, prepared.config.training.exit_after_minutes))


def _train(prepared: PreparedRun, requests: StopRequests) -> int:
    save = Path(prepared.config.checkpoint.save)
    # Only rank 0 writes there first and last; if it is refused, the launcher ends the other ranks.
    writes = os.environ.get("RANK", "0") == "0"
    with SaveLock(save) if writes else nullcontext():
        if writes:
            clear_stop(save)
        _import_core(prepared.config)
        from megatron_ettin.train.launch import launch_training

        return launch_training(prepared, requests)


def _import_core(config: RunConfig) -> None:
    """Import megatron-core before anything else does, on a CPU without torch's compiler."""
    from megatron_ettin.runtime.device import choose_device

    if choose_device(config.training.device).type == "cpu":
        from megatron_ettin.runtime.cpu_placement import import_core

        import_core()


def _announce_stop(name: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write(f"{name}: stops after this step, with a checkpoint; a second signal ends it at once\n")


def silence_expected_warnings() -> None:
    """Ignore warnings that every run would raise; call it before megatron-core is imported, which raises most."""
    for start, category in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=re.escape(start), category=category)
