"""Export: plain transformers loads the model without a warning, bit-equal to the checkpoint."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from megatron_ettin.checkpoint.folder import integrity
from megatron_ettin.checkpoint.folder.integrity import mark_complete
from megatron_ettin.config.model import ModelConfig
from megatron_ettin.convert import export
from megatron_ettin.convert.check import CheckResult
from megatron_ettin.convert.export import CheckFailed, export_checkpoint
from megatron_ettin.convert.hf_tokenizer import SpecialToken
from megatron_ettin.convert.import_model import import_model
from megatron_ettin.convert.options import ExportOptions
from megatron_ettin.errors import ConfigError
from tests.convert.samples import MODEL, OBJECTIVES, misplace_rows, write_hub_folder

ODD_VOCABULARY = ModelConfig(**{**vars(MODEL), "vocab_size": 101})


@pytest.fixture(params=OBJECTIVES)
def objective(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def checkpoint(tmp_path: Path, objective: str) -> Path:
    write_hub_folder(tmp_path / "hub", objective, ODD_VOCABULARY)
    import_model(tmp_path / "hub", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def silent_transformers() -> Iterator[list[str]]:
    """Collect the log messages of transformers."""
    from transformers.utils import logging as transformers_logging

    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    transformers_logging.add_handler(handler)
    yield messages
    transformers_logging.remove_handler(handler)


def test_import_and_export_are_bit_equal(tmp_path: Path, checkpoint: Path) -> None:
    result = export_checkpoint(checkpoint, tmp_path / "out")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("hub", "out"))
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)
    assert result.num_parameters == sum(tensor.numel() for tensor in before.values())
    assert result.num_bytes == 4 * result.num_parameters
    assert result.check is not None
    assert 0 < result.check.difference <= result.check.allowed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "out", "run"]


def test_plain_transformers_loads_it_without_a_warning(
    tmp_path: Path, checkpoint: Path, objective: str, silent_transformers: list[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    export_checkpoint(checkpoint, tmp_path / "out", check=False)
    auto: Any = AutoModelForMaskedLM if objective == "mlm" else AutoModelForCausalLM
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, report = auto.from_pretrained(tmp_path / "out", output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
        original = auto.from_pretrained(tmp_path / "hub")
    assert not any(report.values()), report
    assert silent_transformers == []
    batch = tokenizer(["w5 w6 w7 w8", "w9"], return_tensors="pt", padding=True)
    with torch.inference_mode():
        assert model(**batch).logits.equal(original(**batch).logits)


def test_a_decoder_generates_with_its_generation_config(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    write_hub_folder(tmp_path / "hub", "clm")
    import_model(tmp_path / "hub", tmp_path / "run")
    export_checkpoint(tmp_path / "run", tmp_path / "out", check=False)
    settings = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (0, 1, 2)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    batch = AutoTokenizer.from_pretrained(tmp_path / "out")(["w5 w6", "w9"], return_tensors="pt", padding=True)
    written = model.generate(**batch, max_new_tokens=5, do_sample=False)
    assert written.shape[0] == 2
    assert 1 <= written.shape[1] - batch.input_ids.shape[1] <= 5


def test_large_weights_are_split_over_files_with_an_index(tmp_path: Path, checkpoint: Path) -> None:
    export_checkpoint(checkpoint, tmp_path / "out", options=ExportOptions(shard_bytes=100_000))
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(files) > 2
    assert [file.name for file in files] == [
        f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)
    ]
    files_of = {name: file.name for file in files for name in load_file(file)}
    assert index["weight_map"] == files_of
    assert files_of.keys() == load_file(tmp_path / "hub" / "model.safetensors").keys()
    assert index["metadata"]["total_size"] == sum(t.nbytes for file in files for t in load_file(file).values())
    assert all(file.stat().st_size <= 100_000 + 10_000 for file in files)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_another_dtype_is_rounded_once_and_checked_as_rounded(tmp_path: Path, checkpoint: Path, dtype: str) -> None:
    result = export_checkpoint(checkpoint, tmp_path / "out", options=ExportOptions(dtype=dtype))
    assert result.check is not None
    assert result.check.passed
    torch_dtype = getattr(torch, dtype)
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("hub", "out"))
    assert all(after[name].equal(before[name].to(torch_dtype)) for name in before)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype


def test_the_file_is_valid_and_aligned_for_safetensors(tmp_path: Path, checkpoint: Path) -> None:
    export_checkpoint(checkpoint, tmp_path / "out", check=False)
    path = tmp_path / "out" / "model.safetensors"
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    header_bytes = int.from_bytes(path.read_bytes()[:8], "little")
    assert header_bytes % 8 == 0, "the data is aligned"
    assert path.stat().st_size == 8 + header_bytes + 4 * sum(t.numel() for t in load_file(path).values())


def test_the_card_states_class_task_and_lineage(tmp_path: Path, checkpoint: Path, objective: str) -> None:
    export_checkpoint(checkpoint, tmp_path / "out", check=False)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: unknown\nlibrary_name: transformers\n")
    task, auto = {
        "mlm": ("fill-mask", "AutoModelForMaskedLM"),
        "clm": ("text-generation", "AutoModelForCausalLM"),
    }[objective]
    assert f"pipeline_tag: {task}" in card
    assert f"{auto}.from_pretrained" in card
    assert f"|  | {objective} | 0 | 0 (0) | hub |" in card


def test_a_wrong_weight_is_reported_with_its_layer_and_nothing_is_kept(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    misplace_rows(monkeypatch, "transformer.layers.2.self_attention.linear_qkv.weight")
    with pytest.raises(CheckFailed, match="first diverging: layer 2") as failure:
        export_checkpoint(checkpoint, tmp_path / "out")
    assert failure.value.result.difference > failure.value.result.allowed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "run"]
    export_checkpoint(checkpoint, tmp_path / "out", check=False)
    assert (tmp_path / "out" / "model.safetensors").is_file()


WRONG_KEYS: dict[str, dict[str, Any]] = {
    "window one key narrower": {"local_attention": 126, "sliding_window": 63},
    "bases swapped": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 160_000.0},
        }
    },
    "last of each group global": {
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    },
    "tanh instead of erf": {"hidden_activation": "gelu_new"},
    "epsilon": {"norm_eps": 1e-3},
}


@pytest.mark.parametrize("changes", WRONG_KEYS.values(), ids=WRONG_KEYS.keys())
def test_a_wrong_key_of_the_config_fails_the_check(
    tmp_path: Path, checkpoint: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = export.config_to_hf

    def wrong(*arguments: Any, **named: Any) -> dict[str, Any]:
        config = right(*arguments, **named)
        # An encoder's config has no sliding_window; its class derives it from local_attention.
        return config | {key: value for key, value in changes.items() if key in config}

    monkeypatch.setattr(export, "config_to_hf", wrong)
    with pytest.raises(CheckFailed):
        export_checkpoint(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_nan_difference_does_not_pass() -> None:
    assert not CheckResult(float("nan"), 1.0, "logits").passed
    assert CheckResult(1.0, 1.0, None).passed


@pytest.mark.parametrize("small_file_bytes", [0, 2**24])
def test_a_damaged_checkpoint_is_reported_by_its_file(
    tmp_path: Path, checkpoint: Path, small_file_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integrity, "SMALL_FILE_BYTES", small_file_bytes)
    victim = sorted(checkpoint.glob("step_*/state/*.distcp"))[3]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(ConfigError, match=f"damaged, state/{victim.name} has checksum"):
        export_checkpoint(checkpoint, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_an_existing_export_is_replaced_only_with_overwrite(tmp_path: Path, checkpoint: Path) -> None:
    export_checkpoint(checkpoint, tmp_path / "out", check=False)
    (tmp_path / "out" / "left over").write_text("")
    with pytest.raises(ConfigError, match="already exists; --overwrite replaces it"):
        export_checkpoint(checkpoint, tmp_path / "out", check=False)
    export_checkpoint(checkpoint, tmp_path / "out", check=False, overwrite=True)
    assert not (tmp_path / "out" / "left over").exists()


def rewrite_run(checkpoint: Path, **changes: Any) -> None:
    folder = checkpoint / "step_0000000"
    run = json.loads((folder / "run.json").read_text())
    for section, values in changes.items():
        run["config"][section] |= values
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "complete.json").unlink()
    mark_complete(folder)


REFUSED = {
    "no such folder": (lambda run: None, {"load": "elsewhere"}, "--load elsewhere: there is no such folder"),
    "no checkpoint": (lambda run: (run / "step_0000000" / "complete.json").unlink(), {}, "has no complete checkpoint"),
    "wrong step": (lambda run: None, {"step": 7}, "--load-step 7"),
    "type": (
        lambda run: None,
        {"options": ExportOptions(dtype="int8")},
        "--dtype int8: must be one of float32, bfloat16, float16",
    ),
    "licence": (lambda run: None, {"options": ExportOptions(license="My own")}, "--license My own: must be"),
    "another width": (
        lambda run: rewrite_run(run, model={"hidden_size": 32}),
        {},
        "embedding.word_embeddings.weight has shape (104, 64); by run.json it is (104, 32)",
    ),
    "another depth": (
        lambda run: rewrite_run(run, model={"num_layers": 5}),
        {},
        "has no tensor transformer.layers.4",
    ),
    "another version": (
        lambda run: rewrite_run(run, model={"unheard_of": 1}),
        {},
        "its run.json is of another version",
    ),
}


@pytest.mark.parametrize("objective", ["mlm"], indirect=True)
@pytest.mark.parametrize(("damage", "given", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_invalid_input_is_refused_and_leaves_no_files(
    tmp_path: Path, checkpoint: Path, damage: Any, given: dict[str, Any], named: str
) -> None:
    damage(checkpoint)
    with pytest.raises(ConfigError) as refusal:
        export_checkpoint(**{"load": checkpoint, "save": tmp_path / "out", **given})
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "run"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"post_processor": None}, r"the released tokenizer encodes .* as .*, training assembled"),
        (
            {"normalizer": {"type": "Prepend", "prepend": "w9 "}},
            r"the released tokenizer encodes .* training assembled",
        ),
    ],
)
def test_a_released_tokenizer_that_differs_from_training_fails_the_check(
    tmp_path: Path, checkpoint: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = export.write_release_tokenizer

    def wrong(source: Path, target: Path, *others: Any) -> None:
        right(source, target, *others)
        content = json.loads((target / "tokenizer.json").read_text())
        (target / "tokenizer.json").write_text(json.dumps(content | changes))

    monkeypatch.setattr(export, "write_release_tokenizer", wrong)
    with pytest.raises(CheckFailed, match=message):
        export_checkpoint(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_release_with_other_roles_than_training_fails_the_check(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = export.read_special_tokens

    def wrong(*arguments: Any) -> Any:
        return replace(right(*arguments), pad=SpecialToken("w9", 9))

    monkeypatch.setattr(export, "read_special_tokens", wrong)
    with pytest.raises(CheckFailed, match="the released tokenizer's pad token is 9, in training it was 2"):
        export_checkpoint(checkpoint, tmp_path / "out")


def test_a_run_of_before_is_released_with_the_tokens_of_its_training(tmp_path: Path, checkpoint: Path) -> None:
    """Its run.json records the data but no special tokens: training went by [CLS], [SEP] and so on."""
    step = checkpoint / "step_0000000"
    (step / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"cls_token": "w50", "sep_token": "w51"}))
    for data_order, expected in (({}, "w50"), ({"tokenizer": "..."}, "[CLS]")):
        run = json.loads((step / "run.json").read_text())
        (step / "run.json").write_text(json.dumps({**run, "data_order": data_order}))
        mark_complete(step)
        assert export_checkpoint(checkpoint, tmp_path / "out", overwrite=True).check is not None
        assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["cls_token"] == expected
