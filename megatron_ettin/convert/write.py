"""Import: a Hugging Face model becomes a checkpoint of step 0, from which training starts at any layout."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_ettin.checkpoint.layout import (
    FORMAT_VERSION,
    LATEST_FILE,
    RUN_FILE,
    STATE_FOLDER,
    TOKENIZER_FOLDER,
    mark_whole,
    point_latest,
    step_folder_name,
    write_json_atomic,
)
from megatron_ettin.config.data import DataConfig
from megatron_ettin.config.parallel import padded_vocab_size
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.training import TrainingConfig
from megatron_ettin.convert.config_map import ImportedConfig, config_to_ours
from megatron_ettin.convert.hub_folder import HubFolder
from megatron_ettin.convert.names import OUTPUT_BIAS, Objective, TensorName, convert_to_ours, tensor_names
from megatron_ettin.convert.new_folder import new_folder
from megatron_ettin.convert.safetensors_file import TensorEntry
from megatron_ettin.convert.state import write_state
from megatron_ettin.convert.tokenizer_files import copy_tokenizer, read_special_tokens


def import_model(
    load: Path, save: Path, *, relabel: Objective | None = None, overwrite: bool = False
) -> ImportedConfig:
    """Write the checkpoint folder ``save`` from the model folder ``load``: weights in fp32, no optimizer state.

    Args:
        load: the model folder.
        save: the new folder.
        relabel: train on by this objective; without it by the one that the model was made by.
        overwrite: replace a former checkpoint folder.

    Returns:
        What config.json says, with the objective of the checkpoint.

    Raises:
        ConfigError: the model is of another architecture, files are missing or damaged, or ``save`` is taken.
    """
    folder = HubFolder(load)
    imported = config_to_ours(folder.config)
    names = tensor_names(imported.objective, imported.model)
    folder.check(names, has_output_bias=imported.has_output_bias)
    objective = relabel or imported.objective
    read_special_tokens(load, objective, imported.model.vocab_size)
    with new_folder(save, overwrite=overwrite, known_by=LATEST_FILE) as partial:
        step_folder = partial / step_folder_name(0)
        step_folder.mkdir()
        _write_weights(step_folder / STATE_FOLDER, folder, imported, names)
        copy_tokenizer(load, step_folder / TOKENIZER_FOLDER)
        write_json_atomic(step_folder / RUN_FILE, _describe(load, imported, objective))
        mark_whole(step_folder)
        point_latest(partial, 0)
    return replace(imported, objective=objective)


def _write_weights(state: Path, folder: HubFolder, imported: ImportedConfig, names: tuple[TensorName, ...]) -> None:
    model = imported.model
    padded = padded_vocab_size(model.vocab_size, tp=1)
    by_name = {name.ours: name for name in names}

    def load(ours: str) -> Tensor:
        name = by_name[ours]
        if ours == OUTPUT_BIAS and not imported.has_output_bias:
            parts = [torch.zeros(name.shape)]
        else:
            parts = [folder.tensor(theirs).float() for theirs in name.theirs]
        return convert_to_ours(name, parts, model.num_attention_heads, padded_vocab_size=padded)

    def stored_shape(name: TensorName) -> tuple[int, ...]:
        return (padded, *name.shape[1:]) if name.rows == "vocabulary" else name.shape

    write_state(state, [TensorEntry(name.ours, stored_shape(name), torch.float32) for name in names], load)


def _describe(load: Path, imported: ImportedConfig, objective: Objective) -> dict[str, Any]:
    """Return run.json of a run that has not begun. Its lineage tells what the weights were made by."""
    run = RunConfig(
        model=imported.model,
        data=DataConfig(seq_length=imported.max_positions),
        training=TrainingConfig(objective=objective),
    )
    return {
        "format_version": FORMAT_VERSION,
        "step": 0,
        "consumed_samples": 0,
        "consumed_tokens": 0,
        "objective": objective,
        "config": run.to_dict(),
        "lineage": [{"objective": imported.objective, "steps": 0, "tokens": 0, "parent": load.resolve().name}],
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "validation_loss": None,
    }
