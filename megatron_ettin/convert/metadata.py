"""The index of a distributed checkpoint, unpickled without trusting it.

``.metadata`` is a pickle, and a pickle may name any function to be called. This reader builds only the plain records
that PyTorch's distributed checkpointing puts there.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint import filesystem, metadata, planner

from megatron_ettin.config.errors import ConfigError

METADATA_FILE = ".metadata"

_RECORDS = {
    metadata.__name__: (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    filesystem.__name__: ("_StorageInfo", "_StoragePrefix"),
    # megatron-core adds every rank's plan.
    planner.__name__: ("SavePlan", "TensorWriteData", "WriteItem", "WriteItemType"),
    "torch": ("Size",),
    "torch.serialization": ("_get_layout",),
    # Where it was written to, if that was given as a Path.
    "pathlib": ("Path", "PosixPath", "PurePosixPath"),
    "pathlib._local": ("Path", "PosixPath", "PurePosixPath"),
}


class _RecordUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return a record's class or a tensor type; refuse every other name."""
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if name in _RECORDS.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint needs")


def read_metadata(state: Path) -> metadata.Metadata:
    """Read the index of the checkpoint files in ``state``.

    Raises:
        ConfigError: it is missing, broken, or holds anything but records of PyTorch's distributed checkpointing.
    """
    path = state / METADATA_FILE
    try:
        with path.open("rb") as file:
            read = _load(file)
    except OSError as error:
        raise ConfigError(f"--load {path}: {error.strerror}") from error
    except Exception as error:  # a broken pickle raises nearly anything
        raise ConfigError(f"--load {path}: is not the index of a checkpoint: {error}") from error
    if not isinstance(read, metadata.Metadata) or not isinstance(read.storage_data, dict):
        raise ConfigError(f"--load {path}: is not the index of a checkpoint")
    for stored in read.storage_data.values():
        target = str(getattr(stored, "relative_path", ""))
        if Path(target).name != target:
            raise ConfigError(f"--load {path}: points outside its folder, to {target}")
    return read


def _load(file: BinaryIO) -> Any:
    return _RecordUnpickler(file).load()
