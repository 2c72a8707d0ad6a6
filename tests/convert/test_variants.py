"""Model variants: untied output, no output bias, no window, re-labelled, without head."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from megatron_ettin.checkpoint.folder.integrity import mark_complete
from megatron_ettin.checkpoint.folder.layout import read_run_json, resolve_checkpoint
from megatron_ettin.config.objectives import mask_kind_of
from megatron_ettin.config.run import RunConfig
from megatron_ettin.convert.checkpoint_reader import CheckpointReader
from megatron_ettin.convert.export import CheckFailed, export_checkpoint
from megatron_ettin.convert.import_model import import_model
from megatron_ettin.convert.options import ExportOptions
from megatron_ettin.convert.reference import reference_logits
from megatron_ettin.errors import ConfigError
from tests.convert.samples import MODEL, OBJECTIVES, misplace_rows, write_hub_folder

convert_to_hf = import_module("tools.convert_to_hf")

OTHER: dict[str, str] = {"mlm": "clm", "clm": "mlm"}
UNTIED = replace(MODEL, vocab_size=101, untie_embeddings_and_output_weights=True)


def imported_logits(run: Path, objective: str, tokens_S: torch.Tensor) -> torch.Tensor:
    """Compute the logits of a text from the tensors of an imported checkpoint."""
    folder = resolve_checkpoint(run)
    model = RunConfig.from_dict(read_run_json(folder)["config"]).model
    (logits_SV,) = reference_logits(CheckpointReader(folder).tensor, model, mask_kind_of(objective), [tokens_S])
    return logits_SV


def text(length: int = 300, vocab_size: int = 101) -> torch.Tensor:
    return torch.randint(vocab_size, (length,), generator=torch.Generator().manual_seed(3))


def assert_logits_equal(logits_SV: torch.Tensor, hf: Any, tokens_S: torch.Tensor) -> None:
    with torch.inference_mode():
        expected = hf(tokens_S[None]).logits[0]
    assert float((logits_SV - expected).abs().max()) <= 2e-5 * float(expected.abs().max())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_untied_output_round_trip_is_bit_equal(tmp_path: Path, objective: str) -> None:
    hf = write_hub_folder(tmp_path / "hub", objective, UNTIED)
    assert not hf.decoder.weight.equal(hf.model.embeddings.tok_embeddings.weight)
    imported = import_model(tmp_path / "hub", tmp_path / "run")
    assert imported.model.untie_embeddings_and_output_weights
    assert_logits_equal(imported_logits(tmp_path / "run", objective, text()), hf, text())
    result = export_checkpoint(tmp_path / "run", tmp_path / "out")
    assert result.check is not None
    assert result.check.passed
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("hub", "out"))
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_missing_output_bias_is_imported_as_zeros(tmp_path: Path, objective: str) -> None:
    hf = write_hub_folder(tmp_path / "hub", objective, replace(MODEL, vocab_size=101), decoder_bias=False)
    import_model(tmp_path / "hub", tmp_path / "run")
    assert_logits_equal(imported_logits(tmp_path / "run", objective, text()), hf, text())
    export_checkpoint(tmp_path / "run", tmp_path / "out")
    assert not load_file(tmp_path / "out" / "model.safetensors")["decoder.bias"].any()


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("off", [None, -1])
def test_a_disabled_window_equals_full_attention(tmp_path: Path, objective: str, off: int | None) -> None:
    everywhere = replace(MODEL, rope_local_base=MODEL.rope_global_base)
    full = {"layer_types": ["full_attention"] * MODEL.num_layers}
    hf = write_hub_folder(tmp_path / "hub", objective, everywhere, **full)
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    for key in ("layer_types", "sliding_window"):
        config.pop(key, None)
    config |= {"local_attention": off, "global_attn_every_n_layers": 3}
    (tmp_path / "hub" / "config.json").write_text(json.dumps(config))
    import_model(tmp_path / "hub", tmp_path / "run")
    assert_logits_equal(imported_logits(tmp_path / "run", objective, text(1024)), hf, text(1024))
    export_checkpoint(tmp_path / "run", tmp_path / "out")


@pytest.mark.parametrize("made_as", OBJECTIVES)
def test_re_labelling_keeps_all_weights(tmp_path: Path, made_as: str) -> None:
    """On import and on export; re-labelling twice gives bit-equal tensors."""
    label = OTHER[made_as]
    write_hub_folder(tmp_path / "hub", made_as)
    imported = import_model(tmp_path / "hub", tmp_path / "in", relabel=label)
    assert imported.objective == label
    described = read_run_json(resolve_checkpoint(tmp_path / "in"))
    assert (described["objective"], described["config"]["training"]["objective"]) == (label, label)
    assert described["lineage"] == [{"objective": made_as, "steps": 0, "tokens": 0, "parent": "hub"}]
    export_checkpoint(tmp_path / "in", tmp_path / "labelled on import")

    import_model(tmp_path / "hub", tmp_path / "plain")
    result = export_checkpoint(tmp_path / "plain", tmp_path / "labelled", options=ExportOptions(relabel=label))
    assert result.objective == label
    assert result.check is not None
    assert result.check.passed, "both sides compute with the other mask"
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("labelled", "labelled on import"))
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)
    card = (tmp_path / "labelled" / "README.md").read_text()
    assert "re-labelled without further training" in card

    export_checkpoint(tmp_path / "in", tmp_path / "back", options=ExportOptions(relabel=made_as))
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("hub", "back"))
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)


def test_encoder_and_decoder_differ_in_names_of_head_and_attention(tmp_path: Path) -> None:
    hf = write_hub_folder(tmp_path / "hub", "mlm")
    import_model(tmp_path / "hub", tmp_path / "run", relabel="clm")
    export_checkpoint(tmp_path / "run", tmp_path / "out", check=False)
    decoder = load_file(tmp_path / "out" / "model.safetensors")
    joined = hf.model.layers[2].attn.Wqkv.weight
    parts = [decoder[f"model.layers.2.attn.{part}_proj.weight"] for part in "qkv"]
    assert torch.cat(parts).equal(joined)
    assert decoder["lm_head.dense.weight"].equal(hf.head.dense.weight)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "modernbert-decoder"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_model_without_head_has_the_same_hidden_states(tmp_path: Path, objective: str) -> None:
    from transformers import AutoModel

    hf = write_hub_folder(tmp_path / "hub", objective)
    import_model(tmp_path / "hub", tmp_path / "run")
    result = export_checkpoint(tmp_path / "run", tmp_path / "out", options=ExportOptions(base_only=True))
    assert result.check is not None
    assert (result.check.passed, result.check.compared) == (True, "final norm")
    loaded, report = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()), report
    assert type(loaded).__name__ == {"mlm": "ModernBertModel", "clm": "ModernBertDecoderModel"}[objective]
    assert loaded.state_dict().keys() == load_file(tmp_path / "out" / "model.safetensors").keys()
    tokens = text()[None]
    with torch.inference_mode():
        assert loaded(tokens).last_hidden_state.equal(hf.model(tokens).last_hidden_state)
    assert "pipeline_tag: feature-extraction" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out" / "generation_config.json").exists()


def test_an_mntp_checkpoint_is_released_as_an_encoder_without_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModel

    hf = write_hub_folder(tmp_path / "hub", "mlm")
    import_model(tmp_path / "hub", tmp_path / "run")
    path = tmp_path / "run" / "step_0000000" / "run.json"
    run = json.loads(path.read_text())
    run["lineage"].append({"objective": "mntp", "steps": 3, "tokens": 300, "parent": "run"})
    path.write_text(json.dumps(run | {"objective": "mntp"}))
    (path.parent / "complete.json").unlink()
    mark_complete(path.parent)
    assert convert_to_hf.main(["--load", str(tmp_path / "run"), "--save", str(tmp_path / "out")]) == 0
    assert "largest difference of the final norm" in capsys.readouterr().out
    loaded = AutoModel.from_pretrained(tmp_path / "out")
    assert type(loaded).__name__ == "ModernBertModel"
    tokens = text()[None]
    with torch.inference_mode():
        assert loaded(tokens).last_hidden_state.equal(hf.model(tokens).last_hidden_state)
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == hf.model.state_dict().keys()
    assert "re-labelled" not in (tmp_path / "out" / "README.md").read_text()


def test_a_wrong_weight_of_a_model_without_head_fails_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hub_folder(tmp_path / "hub", "mlm")
    import_model(tmp_path / "hub", tmp_path / "run")
    misplace_rows(monkeypatch, "transformer.final_layernorm.weight")
    with pytest.raises(CheckFailed, match="first diverging: final norm"):
        export_checkpoint(tmp_path / "run", tmp_path / "out", options=ExportOptions(base_only=True))
    assert not (tmp_path / "out").exists()


def test_an_encoder_needs_a_mask_token_also_after_re_labelling(tmp_path: Path) -> None:
    write_hub_folder(tmp_path / "hub", "clm")
    path = tmp_path / "hub" / "tokenizer.json"
    path.write_text(path.read_text().replace("[MASK]", "[NONE]"))
    with pytest.raises(ConfigError, match=r"has no \[MASK\] token, which mlm models need"):
        import_model(tmp_path / "hub", tmp_path / "run", relabel="mlm")
    import_model(tmp_path / "hub", tmp_path / "run")
    with pytest.raises(ConfigError, match=r"has no \[MASK\] token"):
        export_checkpoint(tmp_path / "run", tmp_path / "out", options=ExportOptions(relabel="mlm"))
