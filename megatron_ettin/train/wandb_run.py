"""A run's figures at Weights & Biases, for those who ask for it; the package is an extra."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any

from megatron_ettin.config.errors import ConfigError, one_line
from megatron_ettin.config.run import RunConfig


def open_wandb(run: RunConfig) -> Any | None:
    """Return the run of ``--wandb-project``, or None without one.

    Launches that save to one folder go on with one run: its id comes from the folder, unless WANDB_RUN_ID tells it.

    Raises:
        ConfigError: there is no key, or the service refuses.
    """
    project = run.checkpoint.wandb_project
    if not project:
        return None
    wandb: Any = importlib.import_module("wandb")
    save = Path(run.checkpoint.save).resolve()
    try:
        return wandb.init(
            project=project,
            id=hashlib.sha256(str(save).encode()).hexdigest()[:16],
            name=save.name,
            dir=str(save),
            config=run.to_dict(),
            resume="allow",
        )
    except wandb.errors.Error as error:
        raise ConfigError(
            f"--wandb-project {project}: {one_line(error)} (WANDB_MODE=offline needs no account)"
        ) from error
