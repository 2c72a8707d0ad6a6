"""What the benchmarks share: the check of the packages they need, their clock, and saving their results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn


def fail(message: str) -> NoReturn:
    """End the benchmark with one line and exit code 2."""
    sys.stderr.write(f"error: {message}\n")
    sys.exit(2)


def require(package: str, extra: str) -> None:
    """End the benchmark before it measures anything if a package is not installed.

    Args:
        package: the name it is imported by.
        extra: the extra of megatron_ettin that installs it.
    """
    if find_spec(package) is None:
        fail(f"this benchmark needs the package {package}: pip install 'megatron_ettin[{extra}]'")


def clock_for(threads: int) -> tuple[Callable[[], float], str]:
    """Return a clock and its description: CPU time for one thread, which excludes other processes, else wall time."""
    if threads == 1:
        return time.process_time, "1 thread, CPU time"
    return time.perf_counter, f"{threads} threads, wall time"


def publish(page: str, path: Path, *, save: bool) -> None:
    """Print a page of results, and save it if asked to."""
    print(page)
    if save:
        path.parent.mkdir(exist_ok=True)
        path.write_text(page.rstrip("\n") + "\n", encoding="utf-8")
