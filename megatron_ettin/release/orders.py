"""Where the exported training order of a run lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.config.errors import ConfigError

TRAINING_ORDER_FOLDER = "training_order"
"""Where a run keeps its exported training order, when nothing else is said."""

_SUFFIX = ".parquet"


def find_training_orders(runs: Sequence[Path], given: Sequence[Path]) -> dict[str, Path]:
    """Return folders with a training order by the name they get in the release.

    Args:
        runs: ``--save`` folders; one that was exported into ``training_order/`` there is found.
        given: folders that the user named instead.

    Raises:
        ConfigError: a given folder holds no parquet files, or two have one name.
    """
    if not given:
        inside = {run.resolve().name: run / TRAINING_ORDER_FOLDER for run in runs}
        return {name: path for name, path in inside.items() if _holds_order(path)}
    found: dict[str, Path] = {}
    for path in given:
        if not _holds_order(path):
            raise ConfigError(f"--training-order {path}: holds no {_SUFFIX} files")
        if found.setdefault(path.resolve().name, path) != path:
            raise ConfigError(f"--training-order {path}: another folder of this name was given too")
    return found


def _holds_order(path: Path) -> bool:
    return any(path.rglob(f"*{_SUFFIX}"))
