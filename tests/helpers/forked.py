"""Command lines in processes of their own, forked from one that has imported torch and transformers.

Importing these takes most of the time of such a process. The modules of this repository are imported anew; tests of
what a command line imports start a real process.
"""

from __future__ import annotations

import os
import resource
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.helpers.distributed import CONTEXT
from tests.helpers.speed import patience

ROOT = Path(__file__).resolve().parents[2]


def run_script(
    script: str | Path,
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    blocked: Sequence[str] = (),
    max_file_bytes: int | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a script in the root of the repository, as ``python SCRIPT ARGUMENTS``.

    Args:
        script: its path, relative to the root.
        arguments: of the script.
        environment: all of the process's; by default that of the tests.
        blocked: packages whose import fails.
        max_file_bytes: the largest file that the process may write.
    """
    command = [str(script), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / "out", Path(folder) / "err"]
        for path in outputs:
            path.touch()
        options = (dict(os.environ if environment is None else environment), blocked, max_file_bytes)
        process = CONTEXT.Process(target=_run, args=(command, outputs, *options), daemon=False)
        process.start()
        process.join(patience(300))
        if process.is_alive():
            process.kill()
            process.join()
        assert process.exitcode is not None
        return subprocess.CompletedProcess(command, process.exitcode, *(path.read_text() for path in outputs))


def _run(
    command: list[str],
    outputs: list[Path],
    environment: dict[str, str],
    blocked: Sequence[str],
    max_file_bytes: int | None,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for descriptor, path in zip((1, 2), outputs, strict=True):
        os.dup2(os.open(path, os.O_WRONLY), descriptor)
    sys.stdout, sys.stderr = (open(descriptor, "w", closefd=False) for descriptor in (1, 2))  # noqa: SIM115
    for name in list(sys.modules):
        if name.split(".")[0] in ("megatron_ettin", "tools", *blocked):
            del sys.modules[name]
    sys.modules.update(dict.fromkeys(blocked))  # type: ignore[arg-type]
    if max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    sys.argv = command
    sys.path[0] = str((ROOT / command[0]).parent)
    try:
        runpy.run_path(str(ROOT / command[0]), run_name="__main__")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
