"""Both kinds of model answer lm-evaluation-harness with what transformers says of one text at a time."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from megatron_ettin.errors import ConfigError
from tests.evaluation.suites.generative.tiny import CLS, MASK, SEP, causal, left_to_right, pseudo, tokens_of
from tests.evaluation.tiny_models import released_model, tokenizer

pytestmark = [pytest.mark.slow]  # importing the harness takes more than the tests

REQUESTS = [
    ("the quick brown", " fox jumps"),
    ("", "the lazy dog and the small cat"),
    ("over the lazy dog", " and"),
    ("over the lazy dog", " sill"),
    ("from the warm window ", "sill"),  # the harness moves the blank to what is scored
]


def instances(kind: str, asked: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, arguments, index) for index, arguments in enumerate(asked)]


def encoder(**settings: Any) -> Any:
    from megatron_ettin.evaluation.suites.generative.encoder_lm import EncoderLM

    return EncoderLM(released_model("encoder"), tokenizer(), **settings)


def decoder(made: Any = None, batch_size: int = 3) -> Any:
    from megatron_ettin.evaluation.suites.generative.decoder_lm import DecoderLM

    return DecoderLM(released_model("decoder"), made or tokenizer(), batch_size=batch_size)


def split(context: str, ending: str) -> tuple[list[int], list[int]]:
    """Tokens as the harness splits them: what the context is by itself, and the rest of the whole."""
    whole, before = tokens_of(context + ending), tokens_of(context.rstrip())
    return whole[: len(before)], whole[len(before) :]


@pytest.mark.parametrize("batch_size", [1, 32])
@pytest.mark.parametrize("future_masks", [0, 2])
def test_encoder_left_to_right(batch_size: int, future_masks: int) -> None:
    found = encoder(batch_size=batch_size, future_masks=future_masks).loglikelihood(
        instances("loglikelihood", REQUESTS)
    )
    expected = [left_to_right(released_model("encoder"), *split(*pair), future_masks) for pair in REQUESTS]
    assert [likelihood for likelihood, _ in found] == pytest.approx(expected, rel=0, abs=1e-5)


def test_encoder_pseudo_log_likelihood() -> None:
    found = encoder(protocol="pll").loglikelihood(instances("loglikelihood", REQUESTS))
    expected = [pseudo(released_model("encoder"), *split(*pair)) for pair in REQUESTS]
    assert [likelihood for likelihood, _ in found] == pytest.approx(expected, rel=0, abs=1e-5)


def test_encoder_is_greedy_where_every_token_is_the_likeliest() -> None:
    model, context = released_model("encoder"), tokens_of("the quick")
    with torch.inference_mode():
        likeliest = model(input_ids=torch.tensor([[CLS, *context, MASK, SEP]])).logits[0, -2].argsort(descending=True)
    first, second = likeliest[:2].tolist()
    answers = encoder()._loglikelihood_tokens([(None, [CLS, *context], [first]), (None, [CLS, *context], [second])])
    assert [is_greedy for _, is_greedy in answers] == [True, False]


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_whole_texts_are_scored_from_their_first_token(kind: str) -> None:
    text = "the quick brown fox jumps over the lazy dog"
    lm, score = (encoder(), left_to_right) if kind == "encoder" else (decoder(), causal)
    (found,) = lm.loglikelihood_rolling(instances("loglikelihood_rolling", [(text,)]))
    assert found == pytest.approx(score(released_model(kind), [], tokens_of(text)), rel=1e-5)


def test_long_whole_text_is_cut_into_chunks_that_fit() -> None:
    from megatron_ettin.evaluation.suites.generative.encoder_lm import EncoderLM

    model = copy.copy(released_model("encoder"))
    model.config = copy.deepcopy(model.config)
    model.config.max_position_embeddings = 12
    text = "the quick brown fox jumps over the lazy dog and the small cat"
    tokens, room = tokens_of(text), 10
    assert len(tokens) > room
    (found,) = EncoderLM(model, tokenizer()).loglikelihood_rolling(instances("loglikelihood_rolling", [(text,)]))
    chunks = [tokens[:room]]
    for start in range(room, len(tokens), room):
        chunks.append(tokens[start : start + room])
    expected = left_to_right(model, [], chunks[0])
    for index, chunk in enumerate(chunks[1:], start=1):
        # A later chunk sees as much of the text before it as still fits; the harness asks for one token at least.
        before = tokens[: index * room][-(room + 1 - len(chunk)) :]
        shown = [*before, *chunk]
        for place in range(len(before), len(shown)):
            visible = shown[max(0, place - (room - 1)) : place]
            expected += left_to_right(model, visible, [shown[place]])
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_decoder_sees_cls_once(batch_size: int) -> None:
    found = decoder(batch_size=batch_size).loglikelihood(instances("loglikelihood", REQUESTS))
    expected = [causal(released_model("decoder"), *split(*pair)) for pair in REQUESTS]
    assert [likelihood for likelihood, _ in found] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("template", ["[CLS] $A [SEP]", "$A", "[CLS] [CLS] $A"])
def test_decoder_with_another_template_sees_cls_once_too(template: str) -> None:
    from tokenizers import processors

    other = copy.deepcopy(tokenizer())
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    found = decoder(other).loglikelihood(instances("loglikelihood", REQUESTS))
    expected = [causal(released_model("decoder"), *split(*pair)) for pair in REQUESTS]
    assert [likelihood for likelihood, _ in found] == pytest.approx(expected, rel=1e-5)


def test_decoder_scores_an_answer_longer_than_its_positions_in_chunks() -> None:
    lm = decoder()
    lm._max_length = 8
    context, ending = tokens_of("the quick"), tokens_of("brown fox jumps over the lazy dog and the small cat")
    assert len(ending) > 8
    (found,) = lm._loglikelihood_tokens([(None, [CLS, *context], ending)])
    expected, whole = 0.0, [CLS, *context, *ending]
    for start in range(len(whole) - len(ending), len(whole), 4):
        chunk = whole[start : start + 4]
        shown = whole[: start + len(chunk)][-9:]  # eight positions, and the last token is none that is shown
        expected += after(shown[: len(shown) - len(chunk)], chunk)
    assert found[0] == pytest.approx(expected, rel=1e-5)
    assert lm.progress.num_cut == 1


def after(context: list[int], ending: list[int]) -> float:
    """A decoder's log-likelihood of the ending after exactly these tokens."""
    with torch.inference_mode():
        log_probs = released_model("decoder")(input_ids=torch.tensor([[*context, *ending]])).logits[0].log_softmax(-1)
    return sum(float(log_probs[len(context) + place - 1, token]) for place, token in enumerate(ending))


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_generation_is_greedy_and_ends_before_its_stop(kind: str) -> None:
    stops, most = ["o", "\n"], 8
    lm = encoder() if kind == "encoder" else decoder()
    texts = ["the quick", "over the lazy dog and", "cat"]
    found = lm.generate_until(
        instances("generate_until", [(text, {"until": stops, "max_gen_toks": most}) for text in texts])
    )
    assert found == [greedy_text(kind, text, stops, most) for text in texts]
    assert any(found)


def greedy_text(kind: str, text: str, stops: list[str], most: int) -> str:
    model, tokens, ending = released_model(kind), tokens_of(text), list[int]()
    tail = [MASK, SEP] if kind == "encoder" else []
    place = -2 if kind == "encoder" else -1
    while len(ending) < most:
        with torch.inference_mode():
            token = int(model(input_ids=torch.tensor([[CLS, *tokens, *ending, *tail]])).logits[0, place].argmax())
        if token == SEP:
            break
        ending.append(token)
    told = str(tokenizer().decode(ending, skip_special_tokens=True))
    for stop in stops:
        told = told.split(stop)[0]
    return told


def test_encoder_refuses_random_samples() -> None:
    asked = instances("generate_until", [("the", {"until": [], "do_sample": True, "temperature": 0.7})])
    with pytest.raises(ConfigError, match="random samples"):
        encoder().generate_until(asked)


def test_texts_that_are_cut_are_counted() -> None:
    from megatron_ettin.evaluation.suites.generative.encoder_lm import EncoderLM

    model = copy.copy(released_model("encoder"))
    model.config = copy.deepcopy(model.config)
    model.config.max_position_embeddings = 8
    lm = EncoderLM(model, tokenizer())
    lm.loglikelihood(instances("loglikelihood", [("the", " cat"), ("the quick brown fox jumps over the", " dog")]))
    assert lm.progress.num_cut == 1


def test_positions_are_those_that_the_tokenizer_tells_where_they_are_fewer() -> None:
    from megatron_ettin.evaluation.suites.generative.encoder_lm import EncoderLM

    narrow = copy.deepcopy(tokenizer())
    narrow.model_max_length = 8
    lm = EncoderLM(released_model("encoder"), narrow)
    lm.loglikelihood(instances("loglikelihood", [("the", " cat"), ("the quick brown fox jumps over the", " dog")]))
    assert lm.progress.num_cut == 1


def test_the_harness_finds_the_encoder_by_name(subjects: dict[str, Any]) -> None:
    from lm_eval.api.registry import get_model

    import megatron_ettin.evaluation.suites.generative.encoder_lm  # noqa: F401

    made = get_model("ettin-encoder").create_from_arg_string(
        f"pretrained={subjects['encoder'].folder},future_masks=2", {"batch_size": 4, "device": "cpu"}
    )
    (found,) = made.loglikelihood(instances("loglikelihood", REQUESTS[:1]))
    expected = left_to_right(released_model("encoder"), *split(*REQUESTS[0]), 2)
    assert found[0] == pytest.approx(expected, rel=0, abs=1e-5)
