"""Real launches under torchrun, which tests signal, stop and kill from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


class Torchrun:
    """Two ranks of the trainer on CPUs, in a process group of their own; ended with the ``with``."""

    def __init__(self, log: Path, flags: Sequence[str], ranks: int = 2, options: Sequence[str] = ()) -> None:
        """Start.

        Args:
            log: where everything that is printed goes.
            flags: of the trainer.
            ranks: how many processes.
            options: of torchrun.
        """
        self._log = log
        usual = ["--standalone", f"--nproc-per-node={ranks}", f"--signals-to-handle={SIGNALS}"]
        command = [sys.executable, "-m", "torch.distributed.run", *usual, *options, "-m", "megatron_ettin.pretrain"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [*command, *flags], stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )

    def __enter__(self) -> Torchrun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ranks = self.ranks() if self.process.poll() is None else []
        self.process.kill()
        self.process.wait()
        for pid in ranks:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)

    @property
    def output(self) -> str:
        """What was printed so far."""
        return self._log.read_text(errors="replace")

    def ranks(self) -> list[int]:
        """The processes of the ranks, in their order."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        found = {}
        for pid in map(int, children):
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            rank = next((entry[5:] for entry in environment if entry.startswith(b"RANK=")), None)
            if rank is not None:
                found[int(rank)] = pid
        return [found[rank] for rank in sorted(found)]

    def wait_for(self, text: str, timeout_seconds: float = 150.0) -> None:
        """Wait until something was printed."""
        deadline = time.monotonic() + timeout_seconds
        while text not in self.output:
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.output}"
            assert time.monotonic() < deadline, f"no {text!r} in time:\n{self.output}"
            time.sleep(0.02)

    def wait(self, timeout_seconds: float) -> int:
        """Wait for the end and return the exit code."""
        return self.process.wait(timeout_seconds)


def holds_signals(pid: int) -> bool:
    """Whether a process's main thread lets SIGTERM wait, as the trainer's does from its first line on."""
    status = Path(f"/proc/{pid}/status").read_text()
    blocked = next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk:"))
    return bool(int(blocked, 16) >> (signal.SIGTERM - 1) & 1)


def is_alive(pid: int) -> bool:
    """Whether a process runs or is stopped; one that only waits for its parent to notice is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until_gone(pids: Sequence[int], timeout_seconds: float) -> list[int]:
    """Return who is still alive after so long at most."""
    deadline = time.monotonic() + timeout_seconds
    while (alive := [pid for pid in pids if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive
