"""A model folder in Hugging Face's layout: config.json and safetensors, never a pickle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from megatron_ettin.config.errors import ConfigError
from megatron_ettin.convert.names import OUTPUT_BIAS, THEIR_OUTPUT_MATRIX, TensorName
from megatron_ettin.convert.safetensors_file import DTYPE_NAMES
from megatron_ettin.convert.tokenizer_files import read_json

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class HubFolder:
    """Tensors of a folder by Hugging Face's names, read one at a time."""

    def __init__(self, path: Path) -> None:
        """Open the files.

        Raises:
            ConfigError: a file is missing or no safetensors file.
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
                raise ConfigError(f"--load {path / file}: is no whole safetensors file: {error}") from error
            self._files.update(dict.fromkeys(opened.keys(), opened))

    def check(self, names: Sequence[TensorName], *, has_output_bias: bool) -> None:
        """Refuse a folder whose tensors are not exactly those of the architecture.

        Raises:
            ConfigError: naming the tensor that is missing, unknown, or of another shape or type.
        """
        wanted = {theirs: name for name in names for theirs in name.theirs}
        if not has_output_bias:
            wanted = {theirs: name for theirs, name in wanted.items() if name.ours != OUTPUT_BIAS}
        for theirs, name in wanted.items():
            if theirs not in self._files:
                raise ConfigError(f"--load {self.path}: holds no tensor {theirs}")
            stored = self._files[theirs].get_slice(theirs)
            shape = tuple(stored.get_shape())
            if stored.get_dtype() not in DTYPE_NAMES.values():
                allowed = ", ".join(DTYPE_NAMES.values())
                raise ConfigError(f"--load {self.path}: {theirs} is of type {stored.get_dtype()}; known are {allowed}")
            if shape != name.their_shape:
                raise ConfigError(
                    f"--load {self.path}: {theirs} has shape {shape}; {CONFIG_FILE} tells {name.their_shape}"
                )
        unknown = sorted(self._files.keys() - wanted.keys() - {THEIR_OUTPUT_MATRIX})
        if unknown:
            raise ConfigError(f"--load {self.path}: {unknown[0]} has no place in the architecture")
        if THEIR_OUTPUT_MATRIX in self._files.keys() - wanted.keys():
            self._check_tied(names[0].theirs[0])

    def tensor(self, name: str) -> Tensor:
        """Read one tensor."""
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def _check_tied(self, embedding: str) -> None:
        if not self.tensor(THEIR_OUTPUT_MATRIX).equal(self.tensor(embedding)):
            told = f"though {CONFIG_FILE}'s tie_word_embeddings says so"
            raise ConfigError(f"--load {self.path}: {THEIR_OUTPUT_MATRIX} is not {embedding}, {told}")

    def _weight_files(self) -> list[str]:
        if (self.path / WEIGHTS_FILE).is_file():
            return [WEIGHTS_FILE]
        if not (self.path / INDEX_FILE).is_file():
            raise ConfigError(f"--load {self.path}: holds neither {WEIGHTS_FILE} nor {INDEX_FILE}")
        weight_map = read_json(self.path / INDEX_FILE).get("weight_map", {})
        files = sorted(set(weight_map.values()))
        if not files or any(Path(file).name != file for file in files):
            raise ConfigError(f"--load {self.path / INDEX_FILE}: names no files beside it")
        return files
