"""sentence-transformers loads a released folder: mean pooling for an encoder, the last token for a decoder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.clients.released import KINDS, Kind, Released, assert_close, load_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

POOLING = {"encoder": "mean", "decoder": "lasttoken"}
TEMPERATURE = 0.05
"""The inverse of the scale of MultipleNegativesRankingLoss."""
NUM_PAIRS, NUM_HELD_OUT, BATCH_PAIRS = 192, 64, 32
EPOCHS = {"encoder": 2, "decoder": 4}


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("sentence_transformers")


@torch.no_grad()
def own_embeddings(released: Released, kind: Kind, texts: list[str]) -> Tensor:
    """Pool the last hidden states of each text, run separately without padding."""
    from transformers import AutoModel

    model, tokenizer = AutoModel.from_pretrained(released.model(kind)).eval(), load_tokenizer(released, kind)
    hidden = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in texts]
    return torch.stack([states.mean(dim=0) if kind == "encoder" else states[-1] for states in hidden])


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_from_the_released_folder(released: Released, kind: Kind, library: Any, tmp_path: Path) -> None:
    texts = [
        "x",
        *(text[:length] for text, length in zip(released.texts(4, shortest=600), (600, 40, 300, 5), strict=True)),
    ]
    model = library.SentenceTransformer(str(released.model(kind)), device="cpu")
    assert model[1].get_config_dict()["pooling_mode"] == POOLING[kind]
    expected = own_embeddings(released, kind, texts)
    embeddings = model.encode(texts, batch_size=len(texts), convert_to_tensor=True)
    assert_close(embeddings, expected)
    assert_close(model.encode(texts, batch_size=1, convert_to_tensor=True), expected)

    model.save(str(tmp_path / "saved"))
    reloaded = library.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert_close(reloaded.encode(texts, convert_to_tensor=True), expected)


def pairs(released: Released) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return pairs of overlapping parts of documents for training, and held-out ones."""
    texts = released.texts(NUM_PAIRS + NUM_HELD_OUT, shortest=300)
    cut = [(text[:200], text[100:300]) for text in texts]
    return cut[:NUM_PAIRS], cut[NUM_PAIRS:]


def contrastive_loss(model: Any, held_out: list[tuple[str, str]]) -> float:
    """The cross-entropy of finding the second part of each first part among all held-out ones."""
    firsts, seconds = (
        model.encode(list(side), convert_to_tensor=True, normalize_embeddings=True)
        for side in zip(*held_out, strict=True)
    )
    return float(torch.nn.functional.cross_entropy(firsts @ seconds.T / TEMPERATURE, torch.arange(len(held_out))))


@pytest.mark.parametrize("kind", KINDS)
def test_contrastive_fine_tuning(released: Released, kind: Kind, library: Any, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    losses = pytest.importorskip("sentence_transformers.losses")
    training, held_out = pairs(released)
    model = library.SentenceTransformer(str(released.model(kind)), device="cpu")
    before = contrastive_loss(model, held_out)
    arguments = library.SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=BATCH_PAIRS, num_train_epochs=EPOCHS[kind],
        warmup_steps=3, seed=5, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
        learning_rate=1e-3, logging_steps=1,
    )  # fmt: skip
    columns = dict(zip(("anchor", "positive"), map(list, zip(*training, strict=True)), strict=True))
    trainer = library.SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=datasets.Dataset.from_dict(columns),
        loss=losses.MultipleNegativesRankingLoss(model),
    )  # fmt: skip
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    steps = NUM_PAIRS // BATCH_PAIRS
    assert len(logged) == EPOCHS[kind] * steps
    # Equal embeddings have the logarithm of the batch size as their loss.
    last_epoch = sum(logged[-steps:]) / steps
    assert last_epoch < min(sum(logged[:steps]) / steps, math.log(BATCH_PAIRS) - 0.5), logged
    after = contrastive_loss(model, held_out)
    assert after < before - 0.5
    # A decoder this small memorises its pairs, and stays at chance for held-out ones.
    if kind == "encoder":
        assert after < math.log(NUM_HELD_OUT) - 1.0
