"""Train, save and resume in a process where megatron-core finds apex; prints the losses as JSON.

The stand-in has what megatron-core uses of apex's optimizer: its name, its setting for decoupled decay, and a step
count in the parameter groups. Run as ``python -m tests.optim.with_apex FOLDER``; tests/optim/test_apex.py does.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch

DISTRIBUTED = (("use_distributed_optimizer", True),)
BF16 = (("bf16", True),)
STABLE = (("optimizer", "stable_adamw"),)
CASES: dict[str, tuple[tuple[str, Any], ...]] = {
    "stable": STABLE,
    "stable-distributed": (*STABLE, *DISTRIBUTED),
    "stable-bf16": (*STABLE, *BF16),
    "stable-distributed-bf16": (*STABLE, *DISTRIBUTED, *BF16),
    "adamw-distributed": DISTRIBUTED,
}


class FusedAdam(torch.optim.AdamW):
    """apex's optimizer as megatron-core constructs it."""

    def __init__(self, params: Any, adam_w_mode: bool = True, **settings: Any) -> None:
        assert adam_w_mode
        super().__init__(params, **settings)


def install_apex() -> None:
    """Make ``from apex.optimizers import FusedAdam, FusedSGD`` work."""
    apex, optimizers = ModuleType("apex"), ModuleType("apex.optimizers")
    optimizers.FusedAdam, optimizers.FusedSGD = FusedAdam, torch.optim.SGD  # type: ignore[attr-defined]
    sys.modules |= {"apex": apex, "apex.optimizers": optimizers}


def losses(overrides: tuple[tuple[str, Any], ...], folder: str) -> dict[str, list[float]]:
    """Train nine steps, then the last six again from the checkpoint of the third."""
    from megatron_ettin.runtime.process import end_process
    from tests.checkpoint.training import Case, launch

    case = Case(9, "clm", save=folder, save_at=3, overrides=overrides)
    uninterrupted = launch(case)
    end_process()
    resumed = launch(replace(case, save="", load=uninterrupted["folder"]))
    end_process()
    return {"uninterrupted": uninterrupted["losses"], "resumed": resumed["losses"]}


def main(folder: str) -> None:
    install_apex()
    from megatron.core.optimizer import USING_PYTORCH_OPTIMIZER
    from megatron.core.optimizer.distrib_optimizer import HAVE_APEX_OR_TE

    assert HAVE_APEX_OR_TE
    assert not USING_PYTORCH_OPTIMIZER
    results = {name: losses(overrides, f"{folder}/{name}") for name, overrides in CASES.items()}
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
