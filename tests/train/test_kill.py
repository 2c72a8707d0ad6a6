"""Real runs that are killed with SIGKILL while they save, repeatedly, and resume every time."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from megatron_ettin.checkpoint.folder.integrity import check_large_files
from megatron_ettin.checkpoint.folder.layout import (
    METRICS_FILE,
    half_written_folders,
    list_steps,
    resolve_checkpoint,
    step_folder_name,
)
from tests.helpers.distributed import CONTEXT
from tests.helpers.launches import Material, metrics, write_material
from tests.helpers.runs import TINY

INTERVAL = 2
STEPS = 160
"""More than a run reaches before it is killed."""
PATIENCE_SECONDS = 180


class KillableLaunch(ABC):
    """A launch in processes of its own."""

    @abstractmethod
    def is_running(self) -> bool:
        """Whether any of its processes is alive."""

    @abstractmethod
    def kill(self) -> None:
        """End all its processes with SIGKILL."""


class OneProcess(KillableLaunch):
    """A single process, forked from a server that has imported the slow modules."""

    def __init__(self, flags: Sequence[str], log: Path) -> None:
        self._process = CONTEXT.Process(target=run_command, args=(list(flags), str(log)))
        self._process.start()

    def is_running(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def run_command(flags: list[str], log: str) -> None:
    """Run a command line in this process, with its output in a file."""
    import torch

    from megatron_ettin.pretrain import main

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(1)
    sys.exit(main(flags))


class Torchrun(KillableLaunch):
    """torchrun with two ranks."""

    def __init__(self, flags: Sequence[str], log: Path) -> None:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        with log.open("a") as out:
            self._launcher = subprocess.Popen(
                [*command, "-m", "megatron_ettin.pretrain", *flags], stdout=out, stderr=out
            )

    def is_running(self) -> bool:
        return self._launcher.poll() is None

    def kill(self) -> None:
        family = psutil.Process(self._launcher.pid)
        members = [family, *family.children(recursive=True)]
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                os.kill(member.pid, signal.SIGKILL)
        psutil.wait_procs(members, timeout=30)
        self._launcher.wait()


def flags_of(material: Material, save: Path, **more: Any) -> list[str]:
    shape = {name: getattr(TINY, name) for name in ("num_layers", "hidden_size", "ffn_hidden_size", "vocab_size")}
    settings: dict[str, Any] = {
        **shape,
        "num_attention_heads": TINY.num_attention_heads,
        "sliding_window": TINY.sliding_window,
        "attention_output_dropout": 0.1,
        "objective": "mlm",
        "device": "cpu",
        "seq_length": 64,
        "micro_batch_size": 2,
        "global_batch_size": 4,
        "train_iters": STEPS,
        "lr_decay_style": "constant",
        "eval_interval": 0,
        "save_interval": INTERVAL,
        "log_interval": 1,
        "data_path": material.data_path,
        "tokenizer_model": material.tokenizer_model,
        "save": save,
        "load": save,
        **more,
    }
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return write_material(tmp_path_factory.mktemp("material"))


def kill_while_saving(launched: KillableLaunch, save: Path, rng: random.Random, log: Path) -> None:
    """Kill a launch while it writes its first, second or third checkpoint, or shortly after."""
    wanted, seen = rng.randint(1, 3), {*save.glob("step_*")}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while wanted:
        assert launched.is_running(), f"the launch failed:\n{log.read_text()[-3000:]}"
        assert time.monotonic() < deadline, f"no checkpoint was started:\n{log.read_text()[-3000:]}"
        new = {*save.glob("step_*")} - seen
        seen |= new
        wanted = max(0, wanted - len(new))
    time.sleep(rng.choice((rng.uniform(0, 0.01), rng.uniform(0, 0.1))))
    launched.kill()


def logged_steps(save: Path) -> int:
    """Return the last complete step in metrics.jsonl; a line after it may be truncated."""
    lines = (save / METRICS_FILE).read_text().splitlines()
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("in_background", [False, True], ids=["synchronous", "asynchronous"])
@pytest.mark.parametrize(("kind", "world_size", "kills"), [(OneProcess, 1, 11), (Torchrun, 2, 4)])
def test_a_run_killed_repeatedly_equals_the_uninterrupted_one(
    tmp_path: Path, material: Material, kind: Any, world_size: int, kills: int, in_background: bool
) -> None:
    """Thirty kills in four cases: each loses one or two intervals at most, and the next launch reports it."""
    save, log, rng = tmp_path / "save", tmp_path / "log", random.Random(f"{kind.__name__} {in_background}")
    flags = flags_of(material, save, keep_last_checkpoints=3) + ["--async-save"] * in_background
    interrupted = 0
    for _ in range(kills):
        kill_while_saving(kind(flags, log), save, rng, log)
        complete, half = list_steps(save), half_written_folders(save)
        interrupted += bool(half)
        lost = logged_steps(save) - (complete[-1] if complete else 0)
        assert lost <= INTERVAL * (2 if in_background else 1)
        log.write_text("")
        output = kill_after_a_step(kind(flags, log), log)
        for folder in half:
            assert f"half-written, not a checkpoint: {folder}" in output
        assert f"loaded {save / step_folder_name(complete[-1])}" in output if complete else "new weights" in output
        for step in list_steps(save)[:-1]:
            check_large_files(resolve_checkpoint(save, step))
    assert interrupted, "no kill interrupted a save"
    assert_same_losses(material, save, tmp_path / "uninterrupted", world_size)


def kill_after_a_step(launched: KillableLaunch, log: Path) -> str:
    """Wait until a launch has trained a step, kill it, and return its output."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while "\nstep " not in log.read_text():
        assert launched.is_running(), f"the launch failed:\n{log.read_text()[-3000:]}"
        assert time.monotonic() < deadline, f"no step was trained:\n{log.read_text()[-3000:]}"
        time.sleep(0.01)
    launched.kill()
    return log.read_text()


def assert_same_losses(material: Material, save: Path, uninterrupted: Path, world_size: int) -> None:
    """Compare every record with those of an uninterrupted run of the same number of ranks."""
    from tests.helpers.distributed import run_ranks

    steps = logged_steps(save)
    flags = flags_of(material, uninterrupted, exit_interval=steps, save_interval=0)
    run_ranks(world_size, launch_command, flags)
    lines = [line for line in (save / METRICS_FILE).read_text().splitlines() if line.endswith("}")]
    (save / METRICS_FILE).write_text("".join(f"{line}\n" for line in lines))
    assert metrics(save) == metrics(uninterrupted)[: len(lines)]
    assert len(lines) == steps


def launch_command(flags: list[str]) -> None:
    from megatron_ettin.pretrain import main

    assert main(flags) == 0
