"""A model's kind, size and name, from its files only."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from megatron_ettin.convert.model_card import CardSubject, write_model_card
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.models.kinds import kind_of
from megatron_ettin.evaluation.models.subject import check_nothing_missing, load_language_model, open_subject
from tests.evaluation.saved import edit_config, save_model
from tests.evaluation.tiny_models import released_model
from tests.helpers.runs import TINY


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("encoder", tmp_path_factory.mktemp("models") / "small-encoder")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("decoder", tmp_path_factory.mktemp("models") / "small-decoder")


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_folder_is_read_without_loading_weights(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    subject = open_subject(str(folder))
    assert (subject.name, subject.kind, subject.revision) == (f"small-{kind}", kind, "")
    assert subject.has_head
    assert subject.parameters == sum(parameter.numel() for parameter in released_model(kind).parameters())
    assert subject.as_dict()["folder"] == str(folder)


def test_stored_tied_matrix_counts_once(tmp_path: Path, encoder: Path) -> None:
    shutil.copytree(encoder, tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    weights["decoder.weight"] = weights["model.embeddings.tok_embeddings.weight"].clone()
    save_file(weights, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    assert open_subject(str(tmp_path / "m")).parameters == open_subject(str(encoder)).parameters
    edit_config(tmp_path / "m", tie_word_embeddings=False)
    assert open_subject(str(tmp_path / "m")).parameters == open_subject(str(encoder)).parameters + 128 * 32


def test_checksum_is_of_the_files_that_determine_the_output(tmp_path: Path, encoder: Path) -> None:
    same = shutil.copytree(encoder, tmp_path / "same")
    (same / "README.md").write_text("hello")
    before = open_subject(str(encoder)).checksum
    assert open_subject(str(same)).checksum == before
    edit_config(same, local_attention=32)
    assert open_subject(str(same)).checksum != before
    other = shutil.copytree(encoder, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["model.final_norm.weight"][0] += 1e-6
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    assert open_subject(str(other)).checksum != before


@pytest.mark.parametrize(
    ("config", "name", "kind"),
    [
        ({"architectures": ["ModernBertForMaskedLM"]}, "jhu-clsp--ettin-encoder-17m", "encoder"),
        (
            {"architectures": ["ModernBertForMaskedLM"]},
            "jhu-clsp--ettin-encoder-from-decoder-1b",
            "encoder-from-decoder",
        ),
        ({"architectures": ["ModernBertForMaskedLM"]}, "jhu-clsp--ettin-enc-from-dec-68m", "encoder-from-decoder"),
        ({"architectures": ["ModernBertDecoderForCausalLM"]}, "jhu-clsp--ettin-decoder-17m@step100", "decoder"),
        ({"architectures": ["ModernBertDecoderForCausalLM"]}, "ettin-decoder-from-encoder-32m", "decoder-from-encoder"),
        ({"architectures": ["ModernBertDecoderForCausalLM"]}, "ettin-dec-from-enc-32m", "decoder-from-encoder"),
        ({"architectures": ["ModernBertModel"], "model_type": "modernbert"}, "base", "encoder"),
        ({"architectures": ["ModernBertDecoderModel"], "model_type": "modernbert-decoder"}, "base", "decoder"),
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "bert-base-uncased", "encoder"),
        ({"architectures": ["RobertaModel"], "model_type": "roberta"}, "x", "encoder"),
        ({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, "gpt2", "decoder"),
        ({"architectures": ["LlamaModel"], "model_type": "llama"}, "x", "decoder"),
    ],
)
def test_kinds_by_class_and_name(config: dict[str, Any], name: str, kind: str) -> None:
    assert kind_of(config, card="", name=name) == kind


@pytest.mark.parametrize(
    ("objectives", "objective", "kind"),
    [
        (["mlm", "mlm"], "mlm", "encoder"),
        (["clm", "clm", "mlm"], "mlm", "encoder-from-decoder"),
        (["mlm", "clm"], "clm", "decoder-from-encoder"),
        (["clm", "clm"], "clm", "decoder"),
        (["clm"], "mlm", "encoder-from-decoder"),
    ],
)
def test_origin_is_read_from_the_card_of_a_release(objectives: list[str], objective: Any, kind: str) -> None:
    """The card takes precedence over the name, since a folder can have any name."""
    phases = [
        {"phase": "decay", "objective": each, "steps": 10, "tokens": 1000, "parent": "runs/ettin_enc_x/step_10"}
        for each in objectives
    ]
    run = {"step": 10, "consumed_tokens": 1000, "objective": objectives[-1], "lineage": phases, "config": {}}
    card = write_model_card(CardSubject(run=run, model=TINY, objective=objective, num_parameters=7))
    head = {"mlm": "ModernBertForMaskedLM", "clm": "ModernBertDecoderForCausalLM"}[objective]
    assert kind_of({"architectures": [head]}, card=card, name="ettin-encoder-from-decoder-17m") == kind


def test_imported_model_keeps_its_origin(encoder: Path) -> None:
    """The card of a run that started from a public encoder-from-decoder names it as the origin of the first phase."""
    phase = {"objective": "mlm", "steps": 0, "tokens": 0, "parent": "ettin-encoder-from-decoder-17m"}
    run = {"step": 1, "consumed_tokens": 1, "objective": "mlm", "lineage": [phase], "config": {}}
    card = write_model_card(CardSubject(run=run, model=TINY, objective="mlm", num_parameters=7))
    assert kind_of({"architectures": ["ModernBertForMaskedLM"]}, card=card, name="x") == "encoder-from-decoder"


def test_release_defaults_to_main_and_has_revisions(tmp_path: Path, encoder: Path) -> None:
    for place in ("main", "revisions/step100", "revisions/decay20"):
        shutil.copytree(encoder, tmp_path / "mine" / place)
    mine = tmp_path / "mine"
    assert open_subject(str(mine)).folder == mine / "main"
    assert open_subject(str(mine)).name == open_subject(str(mine / "main")).name == "mine"
    for given in (f"{mine}@step100", f"{mine}/main@step100", f"{mine}/revisions/step100"):
        subject = open_subject(given)
        assert (subject.name, subject.folder) == ("mine@step100", mine / "revisions" / "step100")
    assert open_subject(f"{mine}@decay20").revision == "decay20"
    with pytest.raises(ConfigError, match=r"@step10: .* has 2 revisions.*did you mean step100\?"):
        open_subject(f"{mine}@step10")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("/no/such/model", "there is no such folder"),
        ("./also-none", "there is no such folder"),
        ("a/b/c", "there is no such folder, and it is not a name on the Hub"),
        ("some/name", "the Hub cannot be reached"),
        ("some/name@step5", "the Hub cannot be reached"),
    ],
)
def test_unknown_models_are_one_line(given: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError) as error:
        open_subject(given)
    assert words in str(error.value)
    assert f"--model {given}:" in str(error.value)
    assert "\n" not in str(error.value)


def test_name_is_found_in_the_hub_cache(tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--jhu-clsp--ettin-decoder-from-encoder-17m"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "step5").write_text("a" * 40)
    shutil.copytree(save_model("decoder", tmp_path / "m"), repository / "snapshots" / ("a" * 40))
    subject = open_subject("jhu-clsp/ettin-decoder-from-encoder-17m@step5")
    assert (subject.kind, subject.revision) == ("decoder-from-encoder", "step5")
    assert subject.name == "jhu-clsp--ettin-decoder-from-encoder-17m@step5"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"version https://git-lfs"),
            "is not a safetensors file",
        ),
        (lambda folder: os.truncate(folder / "model.safetensors", 5000), "is incomplete"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{}"), "index.json names no files"),
        (lambda folder: edit_config(folder, is_encoder_decoder=True), "neither an encoder nor a decoder"),
        (lambda folder: edit_config(folder, architectures=["X"], model_type="vit"), "model_type vit is not a language"),
    ],
)
def test_damaged_folder_is_refused(tmp_path: Path, encoder: Path, damage: Any, words: str) -> None:
    folder = shutil.copytree(encoder, tmp_path / "m")
    damage(folder)
    with pytest.raises(ConfigError, match=words):
        open_subject(str(folder))


def test_release_without_head_is_refused(tmp_path: Path, encoder: Path) -> None:
    folder = edit_config(shutil.copytree(encoder, tmp_path / "m"), architectures=["ModernBertModel"])
    subject = open_subject(str(folder))
    assert not subject.has_head
    with pytest.raises(ConfigError, match="has no prediction head"):
        load_language_model(subject)


def test_missing_weights_are_refused(tmp_path: Path, encoder: Path) -> None:
    folder = shutil.copytree(encoder, tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    del weights["head.dense.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack 1 weights, head\.dense\.weight among them"):
        load_language_model(open_subject(str(folder)))


def test_pooler_may_be_missing(encoder: Path) -> None:
    subject = open_subject(str(encoder))
    check_nothing_missing(subject, ["pooler.dense.weight", "pooler.dense.bias"])
    with pytest.raises(ConfigError, match=r"lack 1 weights, layers\.0\.attn\.Wo\.weight among them"):
        check_nothing_missing(subject, ["layers.0.attn.Wo.weight", "pooler.dense.bias"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
        lambda folder: edit_config(folder, hidden_size=64),
        lambda folder: edit_config(folder, vocab_size="many"),
    ],
    ids=["no tokenizer", "other shapes", "no number"],
)
def test_errors_of_transformers_are_one_line(damage: Any, tmp_path: Path, encoder: Path) -> None:
    folder = shutil.copytree(encoder, tmp_path / "m")
    damage(folder)
    with pytest.raises(ConfigError, match=rf"^--model {folder}: transformers cannot load it: ") as refusal:
        load_language_model(open_subject(str(folder)))
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500
