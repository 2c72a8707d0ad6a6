"""The fine-tuned module against the classes of transformers, its inputs, and padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from megatron_ettin.evaluation.suites.classification.classifier import (
    Pooling,
    SequenceClassifier,
    load_classifier,
    pool,
)
from megatron_ettin.evaluation.suites.classification.training import predict
from megatron_ettin.evaluation.suites.classification.trials import InputTemplate, encode_texts
from tests.evaluation.suites.classification.tiny import config_of, release, tokenizer_of

KINDS_AND_POOLINGS: list[tuple[str, Pooling]] = [("encoder", "mean"), ("encoder", "cls"), ("decoder", "last")]
INPUTS = [[1, *range(10, 10 + length), 2] for length in (1, 40, 7, 90, 23)]


def _padded(side: str) -> tuple[Tensor, Tensor]:
    longest = max(map(len, INPUTS))
    ids, mask = torch.full((len(INPUTS), longest), 3), torch.zeros(len(INPUTS), longest, dtype=torch.int64)
    for row, tokens in enumerate(INPUTS):
        where = slice(0, len(tokens)) if side == "right" else slice(longest - len(tokens), None)
        ids[row, where], mask[row, where] = torch.tensor(tokens), 1
    return ids, mask


def _one_at_a_time(classifier: SequenceClassifier) -> Tensor:
    with torch.no_grad():
        rows = [torch.tensor([tokens]) for tokens in INPUTS]
        return torch.cat([classifier(row, torch.ones_like(row))["logits"] for row in rows])


@pytest.mark.parametrize(("kind", "pooling"), KINDS_AND_POOLINGS)
def test_logits_match_transformers(kind: str, pooling: Pooling, tmp_path: Path) -> None:
    subject = release(kind, tmp_path / "m")
    classifier = load_classifier(subject, pooling, 4, seed=1).eval()
    peer = _peer(kind, config_of(subject), pooling)
    _fill(peer, classifier)
    ids, mask = _padded("right")
    with torch.no_grad():
        torch.testing.assert_close(
            classifier(ids, mask)["logits"], peer(ids, attention_mask=mask).logits, rtol=0, atol=1e-5
        )


def _peer(kind: str, config: Any, pooling: Pooling) -> Any:
    config.num_labels, config.classifier_bias = 4, True
    if kind == "encoder":
        config.classifier_pooling = pooling
        config.classifier_bias = False  # of the head's dense layer; the output always has one
        return transformers.ModernBertForSequenceClassification(config).eval()
    peer = transformers.ModernBertDecoderForSequenceClassification(config).eval()
    assert peer.classifier.bias is not None
    return peer


def _fill(peer: Any, classifier: SequenceClassifier) -> None:
    peer.model.load_state_dict(classifier.trunk.state_dict())
    head = dict(classifier.head.state_dict())
    if "dense.bias" in peer.head.state_dict():  # classifier_bias also applies to the head
        head["dense.bias"] = torch.zeros(peer.config.hidden_size)
    peer.head.load_state_dict(head)
    peer.classifier.load_state_dict(classifier.output.state_dict())


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_trunk_and_head_have_the_released_weights(kind: str, tmp_path: Path) -> None:
    subject = release(kind, tmp_path / "m")
    classifier = load_classifier(subject, "mean", 2, seed=1)
    auto = transformers.AutoModelForMaskedLM if kind == "encoder" else transformers.AutoModelForCausalLM
    released = auto.from_pretrained(subject.folder).eval()
    row = torch.tensor([INPUTS[3]])
    with torch.no_grad():
        hidden = classifier.eval().trunk(input_ids=row, attention_mask=torch.ones_like(row)).last_hidden_state
        logits = released.decoder(classifier.head(hidden))
        torch.testing.assert_close(logits, released(row).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("kind", "pooling"), KINDS_AND_POOLINGS)
def test_padding_does_not_change_logits(kind: str, pooling: Pooling, side: str, tmp_path: Path) -> None:
    classifier = load_classifier(release(kind, tmp_path / "m"), pooling, 4, seed=1).eval()
    expected = _one_at_a_time(classifier)
    assert expected.std() > 0.01  # the inputs differ
    with torch.no_grad():
        torch.testing.assert_close(classifier(*_padded(side))["logits"], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("kind", "pooling"), KINDS_AND_POOLINGS)
def test_predictions_are_in_the_order_of_the_inputs(kind: str, pooling: Pooling, tmp_path: Path) -> None:
    classifier = load_classifier(release(kind, tmp_path / "m"), pooling, 4, seed=1).eval()
    torch.testing.assert_close(
        torch.from_numpy(predict(classifier, INPUTS)), _one_at_a_time(classifier), rtol=0, atol=2e-5
    )


def test_pooling_by_hand() -> None:
    hidden = torch.tensor([[[1.0], [2.0], [6.0]], [[1.0], [2.0], [6.0]]])
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    assert pool(hidden, mask, "mean").tolist() == [[1.5], [4.0]]
    assert pool(hidden, mask, "cls").tolist() == [[1.0], [2.0]]
    assert pool(hidden, mask, "last").tolist() == [[2.0], [6.0]]


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_release_without_head_gets_a_random_one(kind: str, tmp_path: Path) -> None:
    subject = release(kind, tmp_path / "m", with_head=False)
    assert not subject.has_head
    first, again, other = (load_classifier(subject, "mean", 2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(_one_at_a_time(first.eval()), _one_at_a_time(again.eval()))
    assert not torch.equal(_one_at_a_time(first), _one_at_a_time(other.eval()))


def test_encoder_inputs_follow_its_template() -> None:
    tokenizer = tokenizer_of("encoder")
    texts = [("the quick fox",), ("the dog", "lazy and small")]
    assert encode_texts(tokenizer, texts, 64) == [tokenizer(*text)["input_ids"] for text in texts]


def test_decoder_pairs_are_separated() -> None:
    tokenizer = tokenizer_of("decoder")
    single, pair = encode_texts(tokenizer, [("the quick fox",), ("the dog", "lazy and small")], 64)
    assert single == tokenizer("the quick fox")["input_ids"]
    plain = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("the dog", "lazy and small")]
    assert pair == [1, *plain[0], 2, *plain[1]]


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [((3, 3), (3, 3)), ((9, 1), (6, 1)), ((1, 9), (1, 6)), ((9, 9), (4, 3)), ((9, 3), (4, 3)), ((3, 9), (3, 4))],
)
def test_longer_text_of_a_pair_is_truncated_first(lengths: tuple[int, int], kept: tuple[int, int]) -> None:
    template = InputTemplate.of(tokenizer_of("encoder"))
    first, second = [10] * lengths[0], [11] * lengths[1]
    assert template.fill([first, second], 10) == [1, *first[: kept[0]], 2, *second[: kept[1]], 2]
    assert template.fill([first], 5) == [1, *first[:3], 2]
