"""Both model classes of the harness, against transformers on one text at a time."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from megatron_ettin.errors import ConfigError
from tests.evaluation.suites.generative.tiny import CLS, MASK, SEP, causal, left_to_right, pseudo, tokens_of
from tests.evaluation.tiny_models import released_model, tokenizer

pytestmark = [pytest.mark.slow]  # the harness is slow to import

REQUESTS = [
    ("the quick brown", " fox jumps"),
    ("", "the lazy dog and the small cat"),
    ("over the lazy dog", " and"),
    ("over the lazy dog", " sill"),
    ("from the warm window ", "sill"),  # the harness moves the trailing space to the continuation
]


def instances(kind: str, requests: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, arguments, index) for index, arguments in enumerate(requests)]


def encoder(**settings: Any) -> Any:
    from megatron_ettin.evaluation.suites.generative.encoder_lm import EncoderLM

    return EncoderLM(released_model("encoder"), tokenizer(), **settings)


def decoder(own_tokenizer: Any = None, batch_size: int = 3) -> Any:
    from megatron_ettin.evaluation.suites.generative.decoder_lm import DecoderLM

    return DecoderLM(released_model("decoder"), own_tokenizer or tokenizer(), batch_size=batch_size)


def split(context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Split tokens as the harness does: those of the context alone, and the rest of the text."""
    whole, before = tokens_of(context + continuation), tokens_of(context.rstrip())
    return whole[: len(before)], whole[len(before) :]


@pytest.mark.parametrize("batch_size", [1, 32])
@pytest.mark.parametrize("future_masks", [0, 2])
def test_encoder_left_to_right_matches_one_token_at_a_time(batch_size: int, future_masks: int) -> None:
    answers = encoder(batch_size=batch_size, future_masks=future_masks).loglikelihood(
        instances("loglikelihood", REQUESTS)
    )
    expected = [left_to_right(released_model("encoder"), *split(*pair), future_masks) for pair in REQUESTS]
    assert [likelihood for likelihood, _ in answers] == pytest.approx(expected, rel=0, abs=1e-5)


def test_encoder_pll_matches_one_token_at_a_time() -> None:
    answers = encoder(protocol="pll").loglikelihood(instances("loglikelihood", REQUESTS))
    expected = [pseudo(released_model("encoder"), *split(*pair)) for pair in REQUESTS]
    assert [likelihood for likelihood, _ in answers] == pytest.approx(expected, rel=0, abs=1e-5)


def test_encoder_marks_the_most_likely_token_as_greedy() -> None:
    model, context = released_model("encoder"), tokens_of("the quick")
    with torch.inference_mode():
        most_likely = model(input_ids=torch.tensor([[CLS, *context, MASK, SEP]])).logits[0, -2].argsort(descending=True)
    first, second = most_likely[:2].tolist()
    answers = encoder()._loglikelihood_tokens([(None, [CLS, *context], [first]), (None, [CLS, *context], [second])])
    assert [is_greedy for _, is_greedy in answers] == [True, False]


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_complete_texts_are_scored_from_their_first_token(kind: str) -> None:
    text = "the quick brown fox jumps over the lazy dog"
    lm, reference = (encoder(), left_to_right) if kind == "encoder" else (decoder(), causal)
    (score,) = lm.loglikelihood_rolling(instances("loglikelihood_rolling", [(text,)]))
    assert score == pytest.approx(reference(released_model(kind), [], tokens_of(text)), rel=1e-5)


def test_long_complete_text_is_split_into_chunks() -> None:
    from megatron_ettin.evaluation.suites.generative.encoder_lm import EncoderLM

    model = copy.copy(released_model("encoder"))
    model.config = copy.deepcopy(model.config)
    model.config.max_position_embeddings = 12
    text = "the quick brown fox jumps over the lazy dog and the small cat"
    tokens, room = tokens_of(text), 10
    assert len(tokens) > room
    (score,) = EncoderLM(model, tokenizer()).loglikelihood_rolling(instances("loglikelihood_rolling", [(text,)]))
    chunks = [tokens[:room]]
    for start in range(room, len(tokens), room):
        chunks.append(tokens[start : start + room])
    expected = left_to_right(model, [], chunks[0])
    for index, chunk in enumerate(chunks[1:], start=1):
        # A later chunk has as much preceding text as fits; the harness requires at least one token.
        before = tokens[: index * room][-(room + 1 - len(chunk)) :]
        text_tokens = [*before, *chunk]
        for place in range(len(before), len(text_tokens)):
            visible = text_tokens[max(0, place - (room - 1)) : place]
            expected += left_to_right(model, visible, [text_tokens[place]])
    assert score == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_decoder_inputs_have_one_cls(batch_size: int) -> None:
    answers = decoder(batch_size=batch_size).loglikelihood(instances("loglikelihood", REQUESTS))
    expected = [causal(released_model("decoder"), *split(*pair)) for pair in REQUESTS]
    assert [likelihood for likelihood, _ in answers] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("template", ["[CLS] $A [SEP]", "$A", "[CLS] [CLS] $A"])
def test_decoder_with_another_template_has_one_cls(template: str) -> None:
    from tokenizers import processors

    other = copy.deepcopy(tokenizer())
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    answers = decoder(other).loglikelihood(instances("loglikelihood", REQUESTS))
    expected = [causal(released_model("decoder"), *split(*pair)) for pair in REQUESTS]
    assert [likelihood for likelihood, _ in answers] == pytest.approx(expected, rel=1e-5)


def test_decoder_scores_long_continuations_in_chunks() -> None:
    lm = decoder()
    lm._max_length = 8
    context, continuation = tokens_of("the quick"), tokens_of("brown fox jumps over the lazy dog and the small cat")
    assert len(continuation) > 8
    (score,) = lm._loglikelihood_tokens([(None, [CLS, *context], continuation)])
    expected, whole = 0.0, [CLS, *context, *continuation]
    for start in range(len(whole) - len(continuation), len(whole), 4):
        chunk = whole[start : start + 4]
        visible = whole[: start + len(chunk)][-9:]  # eight positions, and the last token is not an input
        expected += after(visible[: len(visible) - len(chunk)], chunk)
    assert score[0] == pytest.approx(expected, rel=1e-5)
    assert lm.progress.num_truncated == 1


def after(context: list[int], continuation: list[int]) -> float:
    """Return a decoder's log-likelihood of a continuation after exactly these tokens."""
    with torch.inference_mode():
        log_probs = (
            released_model("decoder")(input_ids=torch.tensor([[*context, *continuation]])).logits[0].log_softmax(-1)
        )
    return sum(float(log_probs[len(context) + place - 1, token]) for place, token in enumerate(continuation))


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_generation_is_greedy_and_ends_before_the_stop(kind: str) -> None:
    stops, limit = ["o", "\n"], 8
    lm = encoder() if kind == "encoder" else decoder()
    texts = ["the quick", "over the lazy dog and", "cat"]
    continuations = lm.generate_until(
        instances("generate_until", [(text, {"until": stops, "max_gen_toks": limit}) for text in texts])
    )
    assert continuations == [greedy_text(kind, text, stops, limit) for text in texts]
    assert any(continuations)


def greedy_text(kind: str, text: str, stops: list[str], limit: int) -> str:
    model, tokens, continuation = released_model(kind), tokens_of(text), list[int]()
    tail = [MASK, SEP] if kind == "encoder" else []
    place = -2 if kind == "encoder" else -1
    while len(continuation) < limit:
        with torch.inference_mode():
            token = int(model(input_ids=torch.tensor([[CLS, *tokens, *continuation, *tail]])).logits[0, place].argmax())
        if token == SEP:
            break
        continuation.append(token)
    generated = str(tokenizer().decode(continuation, skip_special_tokens=True))
    for stop in stops:
        generated = generated.split(stop)[0]
    return generated


def test_encoder_rejects_random_sampling() -> None:
    requests = instances("generate_until", [("the", {"until": [], "do_sample": True, "temperature": 0.7})])
    with pytest.raises(ConfigError, match="random sampling"):
        encoder().generate_until(requests)


def test_truncated_texts_are_counted() -> None:
    from megatron_ettin.evaluation.suites.generative.encoder_lm import EncoderLM

    model = copy.copy(released_model("encoder"))
    model.config = copy.deepcopy(model.config)
    model.config.max_position_embeddings = 8
    lm = EncoderLM(model, tokenizer())
    lm.loglikelihood(instances("loglikelihood", [("the", " cat"), ("the quick brown fox jumps over the", " dog")]))
    assert lm.progress.num_truncated == 1


def test_tokenizer_limits_the_positions() -> None:
    from megatron_ettin.evaluation.suites.generative.encoder_lm import EncoderLM

    narrow = copy.deepcopy(tokenizer())
    narrow.model_max_length = 8
    lm = EncoderLM(released_model("encoder"), narrow)
    lm.loglikelihood(instances("loglikelihood", [("the", " cat"), ("the quick brown fox jumps over the", " dog")]))
    assert lm.progress.num_truncated == 1


def test_harness_creates_the_encoder_by_name(subjects: dict[str, Any]) -> None:
    from lm_eval.api.registry import get_model

    import megatron_ettin.evaluation.suites.generative.encoder_lm  # noqa: F401

    lm = get_model("ettin-encoder").create_from_arg_string(
        f"pretrained={subjects['encoder'].folder},future_masks=2", {"batch_size": 4, "device": "cpu"}
    )
    (score,) = lm.loglikelihood(instances("loglikelihood", REQUESTS[:1]))
    expected = left_to_right(released_model("encoder"), *split(*REQUESTS[0]), 2)
    assert score[0] == pytest.approx(expected, rel=0, abs=1e-5)
