"""torch's flight recorder: NCCL's record of the last collectives, written when a collective hangs.

The watchdog ends a stalled run 30 s before the time-out of the collectives, so it is the watchdog that writes the
records; NCCL's own dump is the fallback. ``torchfrtrace`` reads both.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch

from megatron_ettin.config.run import RunConfig

_KEPT_COLLECTIVES = 2000
"""A step of the 1b has a few hundred; 2,000 records take about 2 MB of host memory."""
_FOLDER = "nccl_trace"
_PREFIX_VARIABLE = "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"


def recorder_settings(config: RunConfig) -> dict[str, str]:
    """Return the environment variables that make torch record.

    The size of the buffer has both of its names, as torch renamed it.
    """
    settings = dict.fromkeys(("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE"), str(_KEPT_COLLECTIVES))
    settings["TORCH_NCCL_DUMP_ON_TIMEOUT"] = "1"
    if config.checkpoint.save:
        prefix = str(Path(config.checkpoint.save).absolute() / _FOLDER / "rank_")
        settings |= dict.fromkeys(("TORCH_FR_DUMP_TEMP_FILE", _PREFIX_VARIABLE), prefix)
    return settings


def record_collectives(config: RunConfig) -> None:
    """Set :func:`recorder_settings` unless the user has set them; call it before the process group exists."""
    for name, value in recorder_settings(config).items():
        os.environ.setdefault(name, value)
    with suppress(OSError):  # the first save reports a folder that cannot be created
        Path(os.environ.get(_PREFIX_VARIABLE, "/tmp/")).parent.mkdir(parents=True, exist_ok=True)


def write_records(rank: int) -> str:
    """Write the records of this rank's NCCL and return the file's name, "" if there is nothing to write.

    May be called while another thread waits for a collective.
    """
    dump = getattr(torch._C._distributed_c10d, "_dump_nccl_trace", None)
    prefix = os.environ.get(_PREFIX_VARIABLE, "")
    if dump is None or not prefix:
        return ""
    try:
        Path(f"{prefix}{rank}").write_bytes(dump())
    except (OSError, RuntimeError):
        return ""
    return f"{prefix}{rank}"
