"""Read checkpoints of several parallel layouts with PyTorch alone, without trusting pickles."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megatron_ettin.checkpoint.folder.layout import resolve_checkpoint
from megatron_ettin.convert.checkpoint_reader import CheckpointReader, read_metadata
from megatron_ettin.convert.file_spans import FileSpan
from megatron_ettin.convert.import_model import write_state
from megatron_ettin.convert.safetensors_writer import TensorEntry
from megatron_ettin.convert.tensor_names import row_blocks, tensor_names, tensor_to_hf
from megatron_ettin.errors import ConfigError
from tests.helpers.distributed import run_ranks
from tests.helpers.runs import TINY, tiny_run
from tests.helpers.shards import Shard, assemble, rank_shards
from tests.helpers.training import save_training, start_training, train_steps

ODD_VOCABULARY = replace(TINY, vocab_size=101)

LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "tp2": (2, {"tensor_model_parallel_size": 2}),
    "pp2": (2, {"pipeline_model_parallel_size": 2}),
    "dp2": (2, {"use_distributed_optimizer": True}),
}


def train_and_save(overrides: dict[str, Any], save: Path) -> list[Shard]:
    """Train a step, save weights, optimizer and random state, and return this rank's weights."""
    from megatron_ettin.checkpoint.folder.state import TrainingState

    training = start_training(tiny_run("mlm", model=ODD_VOCABULARY, **overrides))
    train_steps(training, range(1))
    save_training(save, training, TrainingState.start("mlm"))
    return rank_shards(training.model)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_of_any_layout_is_read_in_full(tmp_path: Path, layout: str) -> None:
    world_size, overrides = LAYOUTS[layout]
    weights = assemble(run_ranks(world_size, train_and_save, overrides, tmp_path))
    reader, names = CheckpointReader(resolve_checkpoint(tmp_path)), tensor_names("mlm", ODD_VOCABULARY)
    reader.check(names)
    assert {name.canonical for name in names} == weights.keys()
    for name in names:
        np.testing.assert_array_equal(
            reader.tensor(name.canonical).numpy(), weights[name.canonical], err_msg=name.canonical
        )
    whole_rows = 0
    for name in tensor_names("clm", ODD_VOCABULARY):
        converted = tensor_to_hf(name, torch.from_numpy(weights[name.canonical]), ODD_VOCABULARY.num_attention_heads)
        for rows, theirs in zip(row_blocks(name, ODD_VOCABULARY.num_attention_heads), converted, strict=True):
            spans = reader.find_rows(name.canonical, rows)
            whole_rows += spans is not None
            assert spans is None or content(spans) == theirs.contiguous().numpy().tobytes(), name.canonical
    # Tensor parallelism splits the columns of two matrices in each layer.
    columns_cut = 2 * ODD_VOCABULARY.num_layers if layout == "tp2" else 0
    assert whole_rows == sum(len(name.hf_names) for name in tensor_names("clm", ODD_VOCABULARY)) - columns_cut


def content(spans: list[FileSpan]) -> bytes:
    return b"".join(span.path.read_bytes()[span.begin : span.begin + span.num_bytes] for span in spans)


def small_state(folder: Path, value: float = 1.0) -> None:
    entries = [TensorEntry("a.weight", (6, 2), torch.float32), TensorEntry("b.weight", (3,), torch.bfloat16)]
    write_state(
        folder / "state",
        entries,
        lambda name: torch.full(
            (6, 2) if name == "a.weight" else (3,), value, dtype=torch.float32 if name == "a.weight" else torch.bfloat16
        ),
    )


def test_tensors_keep_their_dtype(tmp_path: Path) -> None:
    small_state(tmp_path, 1.5)
    reader = CheckpointReader(tmp_path)
    assert reader.dtype("b.weight") == torch.bfloat16
    assert reader.tensor("b.weight").equal(torch.full((3,), 1.5, dtype=torch.bfloat16))
    assert reader.tensor("a.weight").equal(torch.full((6, 2), 1.5))


def test_an_unknown_tensor_is_reported_by_name(tmp_path: Path) -> None:
    small_state(tmp_path)
    with pytest.raises(ConfigError, match=r"has no tensor c\.weight"):
        CheckpointReader(tmp_path).tensor("c.weight")


def test_missing_chunks_are_reported(tmp_path: Path) -> None:
    small_state(tmp_path)
    path = tmp_path / "state" / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    metadata.state_dict_metadata["a.weight"].chunks[0].sizes = torch.Size((3, 2))
    path.write_bytes(pickle.dumps(metadata))
    with pytest.raises(ConfigError, match=r"parts of a\.weight are missing"):
        CheckpointReader(tmp_path).tensor("a.weight")


@pytest.mark.parametrize("damage", ["removed", "emptied", "overwritten"])
def test_damaged_files_are_reported_in_one_line(tmp_path: Path, damage: str) -> None:
    small_state(tmp_path)
    for file in (tmp_path / "state").glob("*.distcp"):
        if damage == "removed":
            file.unlink()
        else:
            file.write_bytes(b"" if damage == "emptied" else b"x" * file.stat().st_size)
    reader = CheckpointReader(tmp_path)
    for read in (lambda: reader.tensor("a.weight"), lambda: reader.find_rows("a.weight", [range(6)])):
        with pytest.raises(ConfigError, match=r"cannot read a\.weight") as refusal:
            read()
        assert "\n" not in str(refusal.value)


class Foreign:
    """Runs a command when it is unpickled."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.touched,)


def foreign_pickles(touched: Path) -> dict[str, bytes]:
    return {
        "a call": pickle.dumps(Foreign(touched)),
        "a function of torch": b"\x80\x04\x8c\x05torch\x8c\x04load\x93.",
        "a dotted path out of an allowed module": b"\x80\x04\x8c\x05torch\x8c\x0dSize.__init__\x93.",
        "a builtin": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.",
    }


@pytest.mark.parametrize("kind", foreign_pickles(Path()))
def test_a_foreign_class_is_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    small_state(tmp_path)
    touched = tmp_path / "touched"
    (tmp_path / "state" / ".metadata").write_bytes(foreign_pickles(touched)[kind])
    with pytest.raises(ConfigError, match="no checkpoint needs") as refusal:
        read_metadata(tmp_path / "state")
    assert "\n" not in str(refusal.value)
    assert not touched.exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps({"a": 1})])
def test_invalid_indices_are_refused(tmp_path: Path, content: bytes) -> None:
    small_state(tmp_path)
    (tmp_path / "state" / ".metadata").write_bytes(content)
    with pytest.raises(ConfigError, match="is not the index of a checkpoint"):
        read_metadata(tmp_path / "state")


def test_an_index_that_points_outside_its_folder_is_refused(tmp_path: Path) -> None:
    small_state(tmp_path)
    path = tmp_path / "state" / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    next(iter(metadata.storage_data.values())).relative_path = "../elsewhere"
    path.write_bytes(pickle.dumps(metadata))
    with pytest.raises(ConfigError, match=r"points outside its folder, to \.\./elsewhere"):
        read_metadata(tmp_path / "state")


def test_a_folder_without_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        CheckpointReader(tmp_path)
