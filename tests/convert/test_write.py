"""Import: what is written is a checkpoint that the trainer loads at any layout, and holds the model's own weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_ettin.checkpoint.folder.integrity import is_complete
from megatron_ettin.checkpoint.folder.layout import list_steps, read_run_json, resolve_checkpoint
from megatron_ettin.config.run import RunConfig
from megatron_ettin.convert.checkpoint_reader import CheckpointReader
from megatron_ettin.convert.import_model import import_model
from megatron_ettin.convert.tensor_names import convert_to_ours, tensor_names
from megatron_ettin.errors import ConfigError
from tests.convert.samples import MODEL, OBJECTIVES, write_hub_folder
from tests.helpers.distributed import run_ranks
from tests.helpers.runs import with_overrides
from tests.helpers.shards import Shard, assemble, rank_shards

ODD_VOCABULARY = replace(MODEL, vocab_size=101)
"""Neither a multiple of 8 nor of the tensor-parallel size."""


def weights_of(their: Any, objective: str, model: Any, padded: int) -> dict[str, torch.Tensor]:
    state = their.state_dict()
    return {
        name.ours: convert_to_ours(
            name, [state[t] for t in name.theirs], model.num_attention_heads, padded_vocab_size=padded
        )
        for name in tensor_names(objective, model)
    }


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_checkpoint_describes_itself(tmp_path: Path, objective: str) -> None:
    their = write_hub_folder(tmp_path / "hub", objective, ODD_VOCABULARY)
    import_model(tmp_path / "hub", tmp_path / "run")
    assert list_steps(tmp_path / "run") == [0]
    folder = resolve_checkpoint(tmp_path / "run")
    assert is_complete(folder)
    described = read_run_json(folder)
    assert (described["step"], described["consumed_samples"], described["objective"]) == (0, 0, objective)
    assert described["lineage"] == [{"objective": objective, "steps": 0, "tokens": 0, "parent": "hub"}]
    config = RunConfig.from_dict(described["config"])
    assert config.model == ODD_VOCABULARY
    assert (config.training.objective, config.data.seq_length) == (objective, 1024)
    assert (folder / "tokenizer" / "tokenizer.json").read_bytes() == (tmp_path / "hub/tokenizer.json").read_bytes()

    reader = CheckpointReader(folder)
    for name, tensor in weights_of(their, objective, ODD_VOCABULARY, padded=104).items():
        assert reader.tensor(name).equal(tensor), name


def load_in_trainer(config: RunConfig, folder: Path) -> list[Shard]:
    """Build this rank's stage with new weights, load the checkpoint into it and return what it then holds."""
    from megatron_ettin.checkpoint.load import load_weights
    from tests.helpers.models import build_stage

    model = build_stage(config)
    load_weights(folder, model)
    return rank_shards(model)


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("layout", [{}, {"tensor_model_parallel_size": 2}, {"pipeline_model_parallel_size": 2}])
def test_the_trainer_loads_it_at_any_layout(tmp_path: Path, layout: dict[str, int], untied: bool) -> None:
    model = replace(ODD_VOCABULARY, untie_embeddings_and_output_weights=untied)
    their = write_hub_folder(tmp_path / "hub", "clm", model)
    import_model(tmp_path / "hub", tmp_path / "run")
    folder = resolve_checkpoint(tmp_path / "run")
    config = with_overrides(RunConfig.from_dict(read_run_json(folder)["config"]), device="cpu", **layout)
    shards = run_ranks(2 if layout else 1, load_in_trainer, config, folder)
    found = assemble(shards)
    for name, tensor in weights_of(their, "clm", model, padded=101).items():
        np.testing.assert_array_equal(found[name][: len(tensor)], tensor.numpy(), err_msg=name)


def test_a_missing_output_bias_is_zero(tmp_path: Path) -> None:
    write_hub_folder(tmp_path / "hub", "mlm", decoder_bias=False)
    import_model(tmp_path / "hub", tmp_path / "run")
    assert not CheckpointReader(resolve_checkpoint(tmp_path / "run")).tensor("output_layer.bias").any()


def test_half_precision_weights_are_widened(tmp_path: Path) -> None:
    their = write_hub_folder(tmp_path / "hub", "mlm").bfloat16()
    their.save_pretrained(tmp_path / "hub")
    import_model(tmp_path / "hub", tmp_path / "run")
    reader = CheckpointReader(resolve_checkpoint(tmp_path / "run"))
    assert reader.tensor("head.dense.weight").equal(their.head.dense.weight.float())


def test_sharded_files_are_read_through_their_index(tmp_path: Path) -> None:
    their = write_hub_folder(tmp_path / "hub", "mlm")
    (tmp_path / "hub" / "model.safetensors").unlink()
    their.save_pretrained(tmp_path / "hub", max_shard_size="100KB")
    assert len(list((tmp_path / "hub").glob("model-*-of-*.safetensors"))) > 2
    import_model(tmp_path / "hub", tmp_path / "run")
    reader = CheckpointReader(resolve_checkpoint(tmp_path / "run"))
    for name, tensor in weights_of(their, "mlm", MODEL, padded=128).items():
        assert reader.tensor(name).equal(tensor), name


def change_weights(hub: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors of a folder (None: take out); ``__`` stands for a dot in a name."""
    tensors = load_file(hub / "model.safetensors")
    for key, tensor in changes.items():
        name = key.replace("__", ".")
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, hub / "model.safetensors", metadata={"format": "pt"})


def change_config(hub: Path, **changes: Any) -> None:
    config = json.loads((hub / "config.json").read_text())
    (hub / "config.json").write_text(json.dumps(config | changes))


REFUSED = {
    "tensor missing": (
        lambda hub: change_weights(hub, head__dense__weight=None),
        "holds no tensor head.dense.weight",
    ),
    "unknown tensor": (
        lambda hub: change_weights(hub, head__dense__bias=torch.zeros(64)),
        "head.dense.bias has no place in the architecture",
    ),
    "other shape": (
        lambda hub: change_weights(hub, head__norm__weight=torch.ones(32)),
        "head.norm.weight has shape (32,); config.json tells (64,)",
    ),
    "quantized": (
        lambda hub: change_weights(hub, head__norm__weight=torch.ones(64, dtype=torch.int8)),
        "head.norm.weight is of type I8; known are F32, BF16, F16",
    ),
    "untied": (lambda hub: change_weights(hub, decoder__weight=torch.zeros(128, 64)), "decoder.weight is not"),
    "no config": (lambda hub: (hub / "config.json").unlink(), "config.json: No such file"),
    "broken config": (lambda hub: (hub / "config.json").write_text("{"), "config.json: is not JSON"),
    "no weights": (lambda hub: (hub / "model.safetensors").unlink(), "holds neither model.safetensors nor"),
    "weights cut short": (
        lambda hub: (hub / "model.safetensors").write_bytes((hub / "model.safetensors").read_bytes()[:-9]),
        "is no whole safetensors file",
    ),
    "pickled weights only": (
        lambda hub: (hub / "model.safetensors").rename(hub / "pytorch_model.bin"),
        "holds neither model.safetensors nor",
    ),
    "no tokenizer": (lambda hub: (hub / "tokenizer.json").unlink(), "tokenizer.json: No such file"),
    "tokenizer too large": (lambda hub: change_config(hub, vocab_size=64), "lies outside the model's vocabulary of 64"),
    "architecture": (lambda hub: change_config(hub, mlp_bias=True), "mlp_bias True"),
}


@pytest.mark.parametrize(("damage", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_wrong_folders_are_refused_and_nothing_is_left(tmp_path: Path, damage: Any, named: str) -> None:
    write_hub_folder(tmp_path / "hub", "mlm")
    damage(tmp_path / "hub")
    if named.startswith("lies outside"):
        smaller = torch.zeros(64, 64)
        change_weights(
            tmp_path / "hub", model__embeddings__tok_embeddings__weight=smaller, decoder__bias=torch.zeros(64)
        )
    with pytest.raises(ConfigError) as refusal:
        import_model(tmp_path / "hub", tmp_path / "run")
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_a_taken_folder_is_replaced_only_when_asked(tmp_path: Path) -> None:
    write_hub_folder(tmp_path / "hub", "mlm")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="already exists"):
        import_model(tmp_path / "hub", tmp_path / "run")
    with pytest.raises(ConfigError, match="replaces only such folders"):
        import_model(tmp_path / "hub", tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
