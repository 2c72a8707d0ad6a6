"""Import: the trainer loads the checkpoint on any parallel layout, with the weights of the model."""

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
from megatron_ettin.convert.tensor_names import tensor_from_hf, tensor_names
from megatron_ettin.errors import ConfigError
from tests.convert.samples import MODEL, OBJECTIVES, write_hub_folder
from tests.helpers.distributed import run_ranks
from tests.helpers.runs import with_overrides
from tests.helpers.shards import Shard, assemble, rank_shards

ODD_VOCABULARY = replace(MODEL, vocab_size=101)
"""The vocabulary is neither a multiple of 8 nor of the tensor-parallel size."""


def weights_of(hf: Any, objective: str, model: Any, padded: int) -> dict[str, torch.Tensor]:
    state = hf.state_dict()
    return {
        name.canonical: tensor_from_hf(
            name, [state[t] for t in name.hf_names], model.num_attention_heads, padded_vocab_size=padded
        )
        for name in tensor_names(objective, model)
    }


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_run_json_describes_the_imported_model(tmp_path: Path, objective: str) -> None:
    hf = write_hub_folder(tmp_path / "hub", objective, ODD_VOCABULARY)
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
    for name, tensor in weights_of(hf, objective, ODD_VOCABULARY, padded=104).items():
        assert reader.tensor(name).equal(tensor), name


def load_in_trainer(config: RunConfig, folder: Path) -> list[Shard]:
    """Build this rank's stage with new weights, load the checkpoint into it and return its weights."""
    from megatron_ettin.checkpoint.load import load_weights
    from tests.helpers.models import build_stage

    model = build_stage(config)
    load_weights(folder, model)
    return rank_shards(model)


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("layout", [{}, {"tensor_model_parallel_size": 2}, {"pipeline_model_parallel_size": 2}])
def test_the_trainer_loads_it_on_any_layout(tmp_path: Path, layout: dict[str, int], untied: bool) -> None:
    model = replace(ODD_VOCABULARY, untie_embeddings_and_output_weights=untied)
    hf = write_hub_folder(tmp_path / "hub", "clm", model)
    import_model(tmp_path / "hub", tmp_path / "run")
    folder = resolve_checkpoint(tmp_path / "run")
    config = with_overrides(RunConfig.from_dict(read_run_json(folder)["config"]), device="cpu", **layout)
    shards = run_ranks(2 if layout else 1, load_in_trainer, config, folder)
    weights = assemble(shards)
    for name, tensor in weights_of(hf, "clm", model, padded=101).items():
        np.testing.assert_array_equal(weights[name][: len(tensor)], tensor.numpy(), err_msg=name)


def test_a_missing_output_bias_is_zero(tmp_path: Path) -> None:
    write_hub_folder(tmp_path / "hub", "mlm", decoder_bias=False)
    import_model(tmp_path / "hub", tmp_path / "run")
    assert not CheckpointReader(resolve_checkpoint(tmp_path / "run")).tensor("output_layer.bias").any()


def test_half_precision_weights_become_fp32(tmp_path: Path) -> None:
    hf = write_hub_folder(tmp_path / "hub", "mlm").bfloat16()
    hf.save_pretrained(tmp_path / "hub")
    import_model(tmp_path / "hub", tmp_path / "run")
    reader = CheckpointReader(resolve_checkpoint(tmp_path / "run"))
    assert reader.tensor("head.dense.weight").equal(hf.head.dense.weight.float())


def test_sharded_files_are_read_through_their_index(tmp_path: Path) -> None:
    hf = write_hub_folder(tmp_path / "hub", "mlm")
    (tmp_path / "hub" / "model.safetensors").unlink()
    hf.save_pretrained(tmp_path / "hub", max_shard_size="100KB")
    assert len(list((tmp_path / "hub").glob("model-*-of-*.safetensors"))) > 2
    import_model(tmp_path / "hub", tmp_path / "run")
    reader = CheckpointReader(resolve_checkpoint(tmp_path / "run"))
    for name, tensor in weights_of(hf, "mlm", MODEL, padded=128).items():
        assert reader.tensor(name).equal(tensor), name


def change_weights(hub: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors of a folder, or delete them for None; ``__`` stands for a dot in a name."""
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
        "has no tensor head.dense.weight",
    ),
    "unknown tensor": (
        lambda hub: change_weights(hub, head__dense__bias=torch.zeros(64)),
        "head.dense.bias is not a tensor of the architecture",
    ),
    "other shape": (
        lambda hub: change_weights(hub, head__norm__weight=torch.ones(32)),
        "head.norm.weight has shape (32,); by config.json it is (64,)",
    ),
    "quantized": (
        lambda hub: change_weights(hub, head__norm__weight=torch.ones(64, dtype=torch.int8)),
        "head.norm.weight has type I8; must be one of F32, BF16, F16",
    ),
    "untied": (lambda hub: change_weights(hub, decoder__weight=torch.zeros(128, 64)), "decoder.weight is not equal to"),
    "no config": (lambda hub: (hub / "config.json").unlink(), "config.json: No such file"),
    "broken config": (lambda hub: (hub / "config.json").write_text("{"), "config.json: is not JSON"),
    "no weights": (lambda hub: (hub / "model.safetensors").unlink(), "has neither model.safetensors nor"),
    "weights cut short": (
        lambda hub: (hub / "model.safetensors").write_bytes((hub / "model.safetensors").read_bytes()[:-9]),
        "is not a complete safetensors file",
    ),
    "pickled weights only": (
        lambda hub: (hub / "model.safetensors").rename(hub / "pytorch_model.bin"),
        "has neither model.safetensors nor",
    ),
    "no tokenizer": (
        lambda hub: (hub / "tokenizer.json").unlink(),
        "tokenizer.json; give a folder with tokenizer.json",
    ),
    "tokenizer too large": (lambda hub: change_config(hub, vocab_size=64), "is outside the model's vocabulary of 64"),
    "architecture": (lambda hub: change_config(hub, mlp_bias=True), "mlp_bias True"),
}


@pytest.mark.parametrize(("damage", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_invalid_folders_are_refused_and_leave_no_files(tmp_path: Path, damage: Any, named: str) -> None:
    write_hub_folder(tmp_path / "hub", "mlm")
    damage(tmp_path / "hub")
    if named.startswith("is outside"):
        smaller = torch.zeros(64, 64)
        change_weights(
            tmp_path / "hub", model__embeddings__tok_embeddings__weight=smaller, decoder__bias=torch.zeros(64)
        )
    with pytest.raises(ConfigError) as refusal:
        import_model(tmp_path / "hub", tmp_path / "run")
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_an_existing_folder_is_replaced_only_with_overwrite(tmp_path: Path) -> None:
    write_hub_folder(tmp_path / "hub", "mlm")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="already exists"):
        import_model(tmp_path / "hub", tmp_path / "run")
    with pytest.raises(ConfigError, match="replaces only such folders"):
        import_model(tmp_path / "hub", tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
