"""Released folders in transformers: loading, pipelines, generation and padding."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.clients.released import KINDS, Kind, Released, assert_close, load_model, load_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LENGTHS = (700, 120, 400, 20)
"""Of texts, in characters: from a few tokens to several times the window of a local layer."""
PROMPTS = ["class Queue:\n    def __init__(self", "import os\n\n", "def"]


def texts(released: Released) -> list[str]:
    documents = released.texts(len(LENGTHS), shortest=max(LENGTHS))
    return [text[:length] for text, length in zip(documents, LENGTHS, strict=True)]


def prompts(released: Released) -> list[str]:
    """Short prompts, and one longer than the window of a local layer."""
    return [*PROMPTS, released.texts(1, shortest=400)[0][:400]]


@torch.no_grad()
def logits_of(model: Any, tokenizer: Any, batch: list[str], *, side: str = "right") -> list[Tensor]:
    """Run a padded batch and return the logits [S, V] of each text, without those of padding."""
    encoded = tokenizer(batch, return_tensors="pt", padding=True, padding_side=side)
    logits = model(**encoded).logits
    return [row[mask.bool()] for row, mask in zip(logits, encoded["attention_mask"], strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_loads_completely_without_warnings(released: Released, kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    auto: Any = AutoModelForMaskedLM if kind == "encoder" else AutoModelForCausalLM
    library = logging.getLogger("transformers")
    library.addHandler(caplog.handler)  # this logger does not propagate its messages
    try:
        _, loading = auto.from_pretrained(released.model(kind), output_loading_info=True)
        load_tokenizer(released, kind)
    finally:
        library.removeHandler(caplog.handler)
    assert not any(loading.values()), loading
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("auto", "kind", "expected"),
    [
        ("AutoModel", "encoder", "ModernBertModel"),
        ("AutoModelForMaskedLM", "encoder", "ModernBertForMaskedLM"),
        ("AutoModelForSequenceClassification", "encoder", "ModernBertForSequenceClassification"),
        ("AutoModelForTokenClassification", "encoder", "ModernBertForTokenClassification"),
        ("AutoModelForQuestionAnswering", "encoder", "ModernBertForQuestionAnswering"),
        ("AutoModel", "decoder", "ModernBertDecoderModel"),
        ("AutoModelForCausalLM", "decoder", "ModernBertDecoderForCausalLM"),
        ("AutoModelForSequenceClassification", "decoder", "ModernBertDecoderForSequenceClassification"),
    ],
)
def test_auto_classes_load_all_weights_but_the_head(released: Released, auto: str, kind: Kind, expected: str) -> None:
    import transformers

    model, loading = getattr(transformers, auto).from_pretrained(released.model(kind), output_loading_info=True)
    assert type(model).__name__ == expected
    assert all(name.split(".")[0] in {"classifier", "head"} for name in loading["missing_keys"])
    assert all(name.split(".")[0] in {"decoder", "head", "lm_head"} for name in loading["unexpected_keys"])
    assert not loading["mismatched_keys"]
    expected_body = load_model(released, kind).model.state_dict()
    body = getattr(model, "model", model).state_dict()
    assert body.keys() == expected_body.keys()
    assert all(torch.equal(body[name], expected_body[name]) for name in expected_body)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_the_checkpoints(released: Released, kind: Kind) -> None:
    model, tokenizer = load_model(released, kind), load_tokenizer(released, kind)
    batch = texts(released)
    tokens = [torch.tensor(tokenizer(text)["input_ids"]) for text in batch]
    expected = released.checkpoint_logits(kind, tokens)
    for actual, logits in zip(logits_of(model, tokenizer, batch), expected, strict=True):
        assert_close(actual, logits)


def test_fill_mask(released: Released) -> None:
    from transformers import pipeline

    tokenizer = load_tokenizer(released, "encoder")
    sentences = [
        "import [MASK]\n",
        "def f(self):\n    return [MASK].name",
        released.texts(1, shortest=400)[0] + "[MASK]",
    ]
    filler = pipeline("fill-mask", str(released.model("encoder")))
    results = filler(sentences, top_k=5, batch_size=len(sentences))
    tokens = [torch.tensor(tokenizer(sentence)["input_ids"]) for sentence in sentences]
    for ids, logits, answers in zip(tokens, released.checkpoint_logits("encoder", tokens), results, strict=True):
        (position,) = (ids == tokenizer.mask_token_id).nonzero().flatten().tolist()
        best = logits[position].softmax(dim=-1).topk(5)
        assert [answer["token"] for answer in answers] == best.indices.tolist()
        assert [answer["score"] for answer in answers] == pytest.approx(best.values.tolist(), rel=1e-4)
        for answer in answers:
            filled = ids.where(ids != tokenizer.mask_token_id, answer["token"])
            assert answer["sequence"] == tokenizer.decode(filled, skip_special_tokens=True)


def test_text_generation(released: Released) -> None:
    """Greedy output of the pipeline equals that computed from the checkpoint's tensors, token by token."""
    from transformers import pipeline

    tokenizer = load_tokenizer(released, "decoder")
    generator = pipeline("text-generation", str(released.model("decoder")))
    batch = prompts(released)
    results = generator(batch, batch_size=len(batch), max_new_tokens=12, do_sample=False, return_full_text=False)
    tokens = [torch.tensor(tokenizer(prompt)["input_ids"]) for prompt in batch]
    assert all(ids[0] == tokenizer.cls_token_id and ids[-1] != tokenizer.sep_token_id for ids in tokens)
    prompt_ids = list(tokens)
    for _ in range(12):
        logits = released.checkpoint_logits("decoder", tokens)
        tokens = [torch.cat((ids, row[-1:].argmax(dim=-1))) for ids, row in zip(tokens, logits, strict=True)]
    for prompt, ids, (answer,) in zip(prompt_ids, tokens, results, strict=True):
        generated = ids[len(prompt) :].tolist()
        if tokenizer.sep_token_id in generated:
            generated = generated[: generated.index(tokenizer.sep_token_id)]
        assert answer["generated_text"] == tokenizer.decode(generated)


def test_generation_stops_at_the_end_of_a_document(released: Released) -> None:
    model, tokenizer = load_model(released, "decoder"), load_tokenizer(released, "decoder")
    with torch.no_grad():
        model.decoder.bias[tokenizer.sep_token_id] = 1e4
    encoded = tokenizer("import os", return_tensors="pt")
    generated = model.generate(**encoded, max_new_tokens=8, do_sample=False)[0]
    assert generated.tolist() == [*encoded["input_ids"][0].tolist(), tokenizer.sep_token_id]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_generation_with_the_cache_equals_generation_without(released: Released, num_beams: int) -> None:
    model, tokenizer = load_model(released, "decoder"), load_tokenizer(released, "decoder")
    encoded = tokenizer(prompts(released), return_tensors="pt", padding=True)
    assert encoded["input_ids"].shape[1] > model.config.sliding_window
    cached, uncached = (
        model.generate(
            **encoded, use_cache=use_cache, num_beams=num_beams, max_new_tokens=80, do_sample=False,
            output_logits=True, return_dict_in_generate=True,
        )
        for use_cache in (True, False)
    )  # fmt: skip
    assert cached.past_key_values is not None
    assert uncached.past_key_values is None
    assert cached.sequences.tolist() == uncached.sequences.tolist()
    for actual, expected in zip(cached.logits, uncached.logits, strict=True):
        assert_close(actual, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_eager_attention_equals_sdpa(released: Released, kind: Kind, side: str) -> None:
    tokenizer = load_tokenizer(released, kind)
    eager, sdpa = (
        logits_of(load_model(released, kind, attn_implementation=name), tokenizer, texts(released), side=side)
        for name in ("eager", "sdpa")
    )
    for actual, expected in zip(eager, sdpa, strict=True):
        assert_close(actual, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padded_batch_equals_single_texts(released: Released, kind: Kind, attention: str) -> None:
    model = load_model(released, kind, attn_implementation=attention)
    tokenizer = load_tokenizer(released, kind)
    batch = texts(released)
    alone = [logits_of(model, tokenizer, [text])[0] for text in batch]
    assert max(map(len, alone)) > model.config.local_attention
    assert len({len(logits) for logits in alone}) == len(alone), "equal lengths would need no padding"
    for side in ("left", "right"):
        for actual, expected in zip(logits_of(model, tokenizer, batch, side=side), alone, strict=True):
            assert_close(actual, expected)
