"""Import a Hugging Face model folder (config.json and safetensors, no pickles) as a checkpoint to train from."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint import DefaultSavePlanner, FileSystemWriter
from torch.distributed.checkpoint.planner import WriteItem

from megatron_ettin.checkpoint.folder.integrity import mark_complete
from megatron_ettin.checkpoint.folder.layout import (
    FORMAT_VERSION,
    LATEST_FILE,
    RUN_FILE,
    STATE_FOLDER,
    TOKENIZER_FOLDER,
    point_latest,
    step_folder_name,
)
from megatron_ettin.config.data import DataConfig
from megatron_ettin.config.parallel import padded_vocab_size
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.training import TrainingConfig
from megatron_ettin.convert.hf_config import ImportedConfig, config_from_hf
from megatron_ettin.convert.hf_tokenizer import copy_tokenizer, read_special_tokens
from megatron_ettin.convert.safetensors_writer import DTYPE_NAMES, TensorEntry
from megatron_ettin.convert.tensor_names import (
    HF_OUTPUT_MATRIX,
    OUTPUT_BIAS,
    TensorName,
    tensor_from_hf,
    tensor_names,
)
from megatron_ettin.data.corpus.special_tokens import read_json
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import new_folder, write_json_atomic

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


def import_model(load: Path, save: Path, *, relabel: str | None = None, overwrite: bool = False) -> ImportedConfig:
    """Write the checkpoint folder ``save`` from the model folder ``load``: weights in fp32, no optimizer state.

    Args:
        load: the model folder.
        save: the new folder.
        relabel: the objective to train with; None keeps the one that the model was trained with.
        overwrite: replace an existing checkpoint folder.

    Returns:
        The content of config.json, with the objective of the checkpoint.

    Raises:
        ConfigError: the model has another architecture, files are missing or damaged, or ``save`` exists.
    """
    folder = HubFolder(load)
    imported = config_from_hf(folder.config)
    names = tensor_names(imported.objective, imported.model)
    folder.check(names, has_output_bias=imported.has_output_bias)
    objective = relabel or imported.objective
    read_special_tokens(TokenizerFiles.load(load, "--load"), objective, imported.model.vocab_size)
    with new_folder(save, overwrite=overwrite, known_by=LATEST_FILE) as partial:
        step_folder = partial / step_folder_name(0)
        step_folder.mkdir()
        _write_weights(step_folder / STATE_FOLDER, folder, imported, names)
        copy_tokenizer(load, step_folder / TOKENIZER_FOLDER)
        write_json_atomic(step_folder / RUN_FILE, _describe(load, imported, objective))
        mark_complete(step_folder)
        point_latest(partial, 0)
    return replace(imported, objective=objective)


def _write_weights(state: Path, folder: HubFolder, imported: ImportedConfig, names: tuple[TensorName, ...]) -> None:
    model = imported.model
    padded = padded_vocab_size(model.vocab_size, tp=1)
    by_name = {name.canonical: name for name in names}

    def load(canonical: str) -> Tensor:
        name = by_name[canonical]
        if canonical == OUTPUT_BIAS and not imported.has_output_bias:
            parts = [torch.zeros(name.shape)]
        else:
            parts = [folder.tensor(hf_name).float() for hf_name in name.hf_names]
        return tensor_from_hf(name, parts, model.num_attention_heads, padded_vocab_size=padded)

    def stored_shape(name: TensorName) -> tuple[int, ...]:
        return (padded, *name.shape[1:]) if name.rows == "vocabulary" else name.shape

    write_state(state, [TensorEntry(name.canonical, stored_shape(name), torch.float32) for name in names], load)


def _describe(load: Path, imported: ImportedConfig, objective: str) -> dict[str, Any]:
    """Return the run.json of a run at step 0; its lineage names the objective that the weights were trained with."""
    config = RunConfig(
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
        "config": config.to_dict(),
        "lineage": [{"objective": imported.objective, "steps": 0, "tokens": 0, "parent": load.resolve().name}],
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "validation_loss": None,
    }


class HubFolder:
    """A model folder: its config.json, and its tensors by their Hugging Face names, read one at a time."""

    def __init__(self, path: Path) -> None:
        """Open the files.

        Raises:
            ConfigError: a file is missing or is not a safetensors file.
        """
        self.path = path
        if not path.is_dir():
            raise ConfigError(f"--load {path}: there is no such folder")
        self.config: dict[str, Any] = read_json(path / CONFIG_FILE)
        self._files: dict[str, Any] = {}
        for file in self._weight_files():
            try:
                opened = safe_open(path / file, framework="pt")
            except (OSError, SafetensorError) as error:
                raise ConfigError(f"--load {path / file}: is not a complete safetensors file: {error}") from error
            self._files.update(dict.fromkeys(opened.keys(), opened))

    def check(self, names: Sequence[TensorName], *, has_output_bias: bool) -> None:
        """Check that the folder has exactly the tensors of the architecture.

        Raises:
            ConfigError: a tensor is missing or unknown, or has another shape or type.
        """
        expected = {hf_name: name for name in names for hf_name in name.hf_names}
        if not has_output_bias:
            expected = {hf_name: name for hf_name, name in expected.items() if name.canonical != OUTPUT_BIAS}
        for hf_name, name in expected.items():
            if hf_name not in self._files:
                raise ConfigError(f"--load {self.path}: has no tensor {hf_name}")
            stored = self._files[hf_name].get_slice(hf_name)
            dtype, shape = stored.get_dtype(), tuple(stored.get_shape())
            if dtype not in DTYPE_NAMES.values():
                rule = f"must be one of {', '.join(DTYPE_NAMES.values())}"
                raise ConfigError(f"--load {self.path}: {hf_name} has type {dtype}; {rule}")
            if shape != name.hf_shape:
                rule = f"by {CONFIG_FILE} it is {name.hf_shape}"
                raise ConfigError(f"--load {self.path}: {hf_name} has shape {shape}; {rule}")
        unknown = sorted(self._files.keys() - expected.keys() - {HF_OUTPUT_MATRIX})
        if unknown:
            raise ConfigError(f"--load {self.path}: {unknown[0]} is not a tensor of the architecture")
        if HF_OUTPUT_MATRIX in self._files.keys() - expected.keys():
            self._check_tied(names[0].hf_names[0])

    def tensor(self, name: str) -> Tensor:
        """Read one tensor."""
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def _check_tied(self, embedding: str) -> None:
        if not self.tensor(HF_OUTPUT_MATRIX).equal(self.tensor(embedding)):
            rule = f"but tie_word_embeddings of {CONFIG_FILE} requires it"
            raise ConfigError(f"--load {self.path}: {HF_OUTPUT_MATRIX} is not equal to {embedding}, {rule}")

    def _weight_files(self) -> list[str]:
        if (self.path / WEIGHTS_FILE).is_file():
            return [WEIGHTS_FILE]
        if not (self.path / INDEX_FILE).is_file():
            raise ConfigError(f"--load {self.path}: has neither {WEIGHTS_FILE} nor {INDEX_FILE}")
        weight_map = read_json(self.path / INDEX_FILE).get("weight_map", {})
        files = sorted(set(weight_map.values()))
        if not files or any(Path(file).name != file for file in files):
            raise ConfigError(f"--load {self.path / INDEX_FILE}: does not name files in its folder")
        return files


def write_state(folder: Path, entries: Sequence[TensorEntry], load: Callable[[str], Tensor]) -> None:
    """Write the tensors as a distributed checkpoint, one at a time.

    Args:
        folder: the new folder.
        entries: name, shape and type of each tensor.
        load: returns a tensor by its name; called when it is written.
    """
    folder.mkdir()
    planner = _StreamingPlanner(load)
    # One file per tensor: PyTorch's writer holds all tensors of a file in memory until the file is complete.
    writer = FileSystemWriter(folder, single_file_per_rank=False, sync_files=True)
    planner.set_up_planner({entry.name: _shape_only(entry) for entry in entries}, is_coordinator=True)
    writer.set_up_storage_writer(is_coordinator=True)
    plans, metadata = planner.create_global_plan([writer.prepare_local_plan(planner.create_local_plan())])
    plan = planner.finish_plan(writer.prepare_global_plan(plans)[0])
    try:
        writer.finish(metadata, [writer.write_data(plan, planner).wait()])
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # the disk's error, which torch's zip writer hides
            raise error.__context__ from None
        raise
    # Files that megatron-core adds: objects other than tensors, and the backends that wrote the checkpoint.
    torch.save({}, folder / "common.pt")
    backends = {"sharded_backend": "torch_dist", "common_backend": "torch"}
    write_json_atomic(folder / "metadata.json", backends | {f"{backend}_version": 1 for backend in backends})


def _shape_only(entry: TensorEntry) -> Tensor:
    return torch.empty(entry.shape, dtype=entry.dtype, device="meta")


class _StreamingPlanner(DefaultSavePlanner):
    """Plans with shapes alone, and loads each value when it is written."""

    def __init__(self, load: Callable[[str], Tensor]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._load = load

    def resolve_data(self, write_item: WriteItem) -> Any:
        return self._load(write_item.index.fqn)
