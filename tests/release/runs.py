"""Finished runs of several phases, written without training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.checkpoint.folder.integrity import mark_complete
from megatron_ettin.checkpoint.folder.layout import METRICS_FILE, RUN_FILE, step_folder_name
from megatron_ettin.convert.import_model import import_model
from tests.convert.samples import hf_model, write_hub_folder


def write_run(
    save: Path,
    objective: str = "mlm",
    *,
    phase: str = "pretrain",
    steps: Sequence[int] = (10, 20),
    trained_by: str = "",
) -> None:
    """Write a run's folder with a checkpoint of different weights for each step, and its metrics.

    Args:
        save: the new folder.
        objective: whose model classes the weights have.
        phase: of the recipe.
        steps: one checkpoint for each.
        trained_by: the objective in run.json, if it is another one.
    """
    import torch

    save.mkdir(parents=True)
    hub = save.with_name(f"{save.name}.hub")
    write_hub_folder(hub, objective)
    model = hf_model(objective)
    for step in steps:
        with torch.no_grad():
            model.model.final_norm.weight.fill_(step / 100)
        model.save_pretrained(hub)
        imported = save.with_name(f"{save.name}.imported")
        import_model(hub, imported, overwrite=True)
        folder = save / step_folder_name(step)
        (imported / step_folder_name(0)).rename(folder)
        run = json.loads((folder / RUN_FILE).read_text())
        tokens = 1000 * step
        run |= {"step": step, "consumed_tokens": tokens, "consumed_samples": 8 * step, "validation_loss": 2.5}
        run["objective"] = trained_by or objective
        stretch = {"objective": run["objective"], "steps": step, "tokens": tokens, "phase": phase}
        run["lineage"] = [stretch | {"parent": "/home/me/runs/a/step_1"}]
        run["config"]["training"]["phase"] = phase
        run["config"]["data"]["data_path"] = "3 /home/me/books 1 /home/me/web"
        (folder / RUN_FILE).write_text(json.dumps(run))
        (folder / "complete.json").unlink()
        mark_complete(folder)
    records = [{"step": s, "loss": 5 - s / 100, "learning_rate": 0.001 * s} for s in range(5, max(steps) + 1, 5)]
    (save / METRICS_FILE).write_text("".join(json.dumps(record) + "\n" for record in records) + '{"step": 9')
