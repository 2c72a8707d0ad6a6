"""The suite end to end on tiny models: embedding, learning, determinism, and resuming after a stop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.models.subject import open_subject
from megatron_ettin.evaluation.suites.retrieval.protocol import RetrievalProtocol
from megatron_ettin.evaluation.suites.retrieval.ranking import chance_ndcg
from tests.evaluation.suites.classification.tiny import MemoryCache
from tests.evaluation.suites.retrieval import tiny

pytestmark = pytest.mark.slow  # needs the extra [eval]


KINDS = ("encoder", "decoder")
TRAIN, TEST = tiny.draw_pairs(300, 1), tiny.draw_pairs(60, 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "retrieval" / "words"
    return tiny.write_task(folder, train=TRAIN, test=TEST, distractors=["the of and", TEST[0][1], "rare1 rare2 rare3"])


def reference_embeddings(kind: str, folder: Path, texts: Sequence[str]) -> np.ndarray:
    """Pool the last hidden states of each text, run one at a time without padding."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    pooled = []
    with torch.no_grad():
        for text in texts:
            hidden = model(**tokenizer(text, truncation=True, max_length=16, return_tensors="pt")).last_hidden_state[0]
            pooled.append(hidden.mean(dim=0) if kind == "encoder" else hidden[-1])
    stacked = torch.stack(pooled)
    return (stacked / stacked.norm(dim=1, keepdim=True)).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_match_transformers(kind: str, tmp_path: Path) -> None:
    from megatron_ettin.evaluation.suites.retrieval.embedder import build_embedder, embed

    subject, protocol = tiny.release(kind, tmp_path), RetrievalProtocol(max_length=16)
    words = [*tiny.FILLERS, *tiny.RARE]
    # Different lengths in one batch, so that all but one are padded; the last two are truncated to the same tokens.
    texts = ["rare1", "the rare2 of rare3", *(" ".join(words[start : start + 24]) for start in (0, 5)), "a rare4"]
    texts.append(texts[3] + " rare20 rare21")
    embeddings = embed(build_embedder(subject, protocol), texts, protocol)
    np.testing.assert_allclose(embeddings, reference_embeddings(kind, tmp_path, texts), atol=2e-6)
    np.testing.assert_allclose(embeddings[3], embeddings[5], atol=2e-6)
    ids = tiny.tokenizer_of(kind)(texts[3], truncation=True, max_length=16)["input_ids"]
    assert (ids[0], ids[-1] == 2) == (1, kind == "encoder")


@pytest.mark.parametrize("kind", KINDS)
def test_learns_to_match_rare_words(kind: str, data: Path, tmp_path: Path) -> None:
    subject, task = tiny.release(kind, tmp_path / kind), tiny.build_task(data, learning_rates=(1e-2,), epochs=6)
    task.check(subject)
    updates: list[tuple[str, int, int]] = []
    result = task.run(subject, tiny.task_run(tmp_path / "trained", updates=updates))
    num_documents = len({positive for _, positive in TEST}) + 2
    assert task.settings["documents"] == num_documents  # one of the three distractors is a positive
    assert result.details["ndcg_at_10_by_chance"] == chance_ndcg(num_documents)
    assert result.main == "ndcg_at_10"
    assert result.main_measure.low > 0.5 > 5 * chance_ndcg(num_documents)
    assert result.main_measure.low < result.main_measure.value < result.main_measure.high
    assert result.metrics["recall_at_10"].value >= result.metrics["mrr_at_10"].value > 0
    for metric, scores in result.items.items():
        assert len(scores) == task.settings["queries"]
        assert np.mean(scores) == pytest.approx(result.metrics[metric].value)
    assert result.details["pooling"] == {"encoder": "mean", "decoder": "lasttoken"}[kind]
    assert updates[-1][1] == updates[-1][2] == 6 * 9  # 270 training pairs, 32 per step


def test_metrics_match_scikit_learn(data: Path, tmp_path: Path) -> None:
    """Rank by hand with the weights of a stopped run."""
    from sklearn import metrics

    from megatron_ettin.evaluation.suites.retrieval.embedder import embed, load_embedder
    from megatron_ettin.evaluation.suites.retrieval.trials import Trials

    subject, task = tiny.release("encoder", tmp_path / "encoder"), tiny.build_task(data)
    config = tiny.task_run(tmp_path / "trained")
    embedder = load_embedder(
        Trials(subject, task.data.training, task.protocol, config).trained(task.protocol.learning_rates[0], 1),
        task.protocol,
    )
    result = task.run(subject, config)
    test = task.data.test
    similarities = embed(embedder, test.queries, task.protocol) @ embed(embedder, test.documents, task.protocol).T
    gains = np.zeros_like(similarities)
    for row, indices in enumerate(test.relevant):
        gains[row, indices] = 1
    assert result.main_measure.value == pytest.approx(metrics.ndcg_score(gains, similarities, k=10), abs=1e-6)


def test_is_deterministic_and_depends_on_the_seed(data: Path, tmp_path: Path) -> None:
    subject, task = tiny.release("encoder", tmp_path / "encoder"), tiny.build_task(data, seeds=(1, 2), epochs=2)
    first, second = (task.run(subject, tiny.task_run(tmp_path / name)) for name in ("one", "two"))
    assert first == second
    by_seed = first.details["by_seed"]["ndcg_at_10"]
    assert by_seed == first.details["seed_scores"]
    assert by_seed[0] != by_seed[1]
    assert first.main_measure.value == pytest.approx(np.mean(by_seed))
    spread = first.details["standard_deviation_over_seeds"]["ndcg_at_10"]
    assert spread == pytest.approx(abs(by_seed[0] - by_seed[1]) / 2**0.5)


def test_mini_batch_does_not_change_the_result(data: Path, tmp_path: Path) -> None:
    subject = tiny.release("decoder", tmp_path / "decoder")
    results = [
        tiny.build_task(data, mini_batch=size, epochs=1).run(subject, tiny.task_run(tmp_path / f"of_{size}"))
        for size in (8, 64)
    ]
    assert results[0].main_measure.value == pytest.approx(results[1].main_measure.value, abs=0.02)


def test_held_out_pairs_select_the_rate(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny.release("encoder", tmp_path / "encoder")
    task = tiny.build_task(data, learning_rates=(1e-5, 1e-2, 3e-3), seeds=(1, 2), epochs=2)
    training = task.data.training
    assert len(training.held_out_pairs) == 30
    assert not set(training.held_out_pairs) & set(training.train_pairs)
    assert sorted([*training.held_out_pairs, *training.train_pairs]) == sorted(TRAIN)
    trained = count_trainings(monkeypatch)
    result = task.run(subject, tiny.task_run(tmp_path / "trained"))
    scores = result.details["choice_scores"]
    best = max(scores, key=lambda rate: scores[rate])
    assert best != "1e-05"
    assert result.details["learning_rate"] == float(best)
    assert result.details["learning_rate_at_edge_of_grid"] == (best == "0.01")
    assert trained == [(1e-5, 1), (1e-2, 1), (3e-3, 1), (float(best), 2)]
    # The weights of the embedders are deleted, their scores kept.
    assert not list((tmp_path / "trained").rglob("*.safetensors"))


def count_trainings(monkeypatch: pytest.MonkeyPatch, stop_after: int = 100) -> list[tuple[float, int]]:
    """Record rate and seed of each training; the one after ``stop_after`` others is interrupted at its end."""
    from megatron_ettin.evaluation.suites.retrieval import embedder

    trained: list[tuple[float, int]] = []
    original = embedder.fine_tune

    def recorded(*arguments: Any, learning_rate: float, seed: int, **named: Any) -> None:
        original(*arguments, learning_rate=learning_rate, seed=seed, **named)
        if len(trained) == stop_after:
            raise KeyboardInterrupt
        trained.append((learning_rate, seed))

    monkeypatch.setattr(embedder, "fine_tune", recorded)
    return trained


@pytest.mark.parametrize("stop_after", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_resumes_after_a_stop(stop_after: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny.release("encoder", tmp_path / "encoder")
    task = tiny.build_task(data, learning_rates=(1e-3, 1e-2), seeds=(1, 2), epochs=1)
    uninterrupted = task.run(subject, tiny.task_run(tmp_path / "uninterrupted"))
    cache, folder = MemoryCache(), tmp_path / "trained"
    with monkeypatch.context() as stopping:
        count_trainings(stopping, stop_after)
        with pytest.raises(KeyboardInterrupt):
            task.run(subject, tiny.task_run(folder, cache))
    trained = count_trainings(monkeypatch)
    assert task.run(subject, tiny.task_run(folder, cache)) == uninterrupted
    assert len(trained) == 3 - stop_after
    # A finished task trains nothing again.
    assert task.run(subject, tiny.task_run(folder, cache)) == uninterrupted
    assert len(trained) == 3 - stop_after


def test_other_weights_are_trained_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file, save_file

    task, folder = tiny.build_task(data, epochs=1), tmp_path / "trained"
    before = task.run(tiny.release("encoder", tmp_path / "encoder"), tiny.task_run(folder))
    weights = tmp_path / "encoder" / "model.safetensors"
    save_file({name: tensor * 0.5 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    trained = count_trainings(monkeypatch)
    after = task.run(open_subject(str(tmp_path / "encoder")), tiny.task_run(folder))
    assert trained == [(3e-3, 1)]
    assert before.details["choice_scores"] != after.details["choice_scores"]


def test_models_that_cannot_embed_are_rejected(data: Path, tmp_path: Path) -> None:
    subject = tiny.release("encoder", tmp_path / "encoder")
    with pytest.raises(ConfigError, match=r"^--retrieval-max-length 65: .* has 64 positions; must be no more$"):
        tiny.build_task(data, max_length=65).check(subject)

    from safetensors.torch import load_file, save_file

    weights = tmp_path / "encoder" / "model.safetensors"
    tensors = load_file(weights)
    tensors.pop("model.layers.1.attn.Wo.weight")
    save_file(tensors, weights, {"format": "pt"})
    incomplete = open_subject(str(tmp_path / "encoder"))
    with pytest.raises(ConfigError, match=r": its files lack 1 weights, .*Wo\.weight among them; transformers would"):
        tiny.build_task(data).check(incomplete)

    tokenizer = tiny.tokenizer_of("decoder")
    tokenizer.pad_token = None
    bare = tiny.release("decoder", tmp_path / "decoder")
    tokenizer.save_pretrained(bare.folder)
    with pytest.raises(ConfigError, match=r"cannot embed texts; its tokenizer has no padding token$"):
        tiny.build_task(data).check(bare)
