"""What users of transformers do with a released folder."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.clients.released import KINDS, Kind, Released, assert_close, load_model, load_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LENGTHS = (700, 120, 400, 20)
"""Of texts, in characters: from a few tokens to several times what a local layer sees."""
PROMPTS = ["class Queue:\n    def __init__(self", "import os\n\n", "def"]


def texts(released: Released) -> list[str]:
    found = released.texts(len(LENGTHS), shortest=max(LENGTHS))
    return [text[:length] for text, length in zip(found, LENGTHS, strict=True)]


def prompts(released: Released) -> list[str]:
    """Short ones, and one that is longer than a local layer sees."""
    return [*PROMPTS, released.texts(1, shortest=400)[0][:400]]


@torch.no_grad()
def logits_of(model: Any, tokenizer: Any, batch: list[str], *, side: str = "right") -> list[Tensor]:
    """Run a padded batch; return each text's logits [S, V], those of padding left out."""
    encoded = tokenizer(batch, return_tensors="pt", padding=True, padding_side=side)
    logits = model(**encoded).logits
    return [row[mask.bool()] for row, mask in zip(logits, encoded["attention_mask"], strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_loads_whole_and_without_a_warning(released: Released, kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    auto: Any = AutoModelForMaskedLM if kind == "encoder" else AutoModelForCausalLM
    library = logging.getLogger("transformers")
    library.addHandler(caplog.handler)  # this logger does not hand its messages on
    try:
        _, told = auto.from_pretrained(released.model(kind), output_loading_info=True)
        load_tokenizer(released, kind)
    finally:
        library.removeHandler(caplog.handler)
    assert not any(told.values()), told
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
def test_auto_classes_take_all_but_a_head(released: Released, auto: str, kind: Kind, expected: str) -> None:
    import transformers

    model, told = getattr(transformers, auto).from_pretrained(released.model(kind), output_loading_info=True)
    assert type(model).__name__ == expected
    assert all(name.split(".")[0] in {"classifier", "head"} for name in told["missing_keys"])
    assert all(name.split(".")[0] in {"decoder", "head", "lm_head"} for name in told["unexpected_keys"])
    assert not told["mismatched_keys"]
    whole = load_model(released, kind).model.state_dict()
    body = getattr(model, "model", model).state_dict()
    assert body.keys() == whole.keys()
    assert all(torch.equal(body[name], whole[name]) for name in whole)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_checkpoints(released: Released, kind: Kind) -> None:
    model, tokenizer = load_model(released, kind), load_tokenizer(released, kind)
    batch = texts(released)
    tokens = [torch.tensor(tokenizer(text)["input_ids"]) for text in batch]
    expected = released.checkpoint_logits(kind, tokens)
    for found, logits in zip(logits_of(model, tokenizer, batch), expected, strict=True):
        assert_close(found, logits)


def test_fill_mask(released: Released) -> None:
    from transformers import pipeline

    tokenizer = load_tokenizer(released, "encoder")
    sentences = [
        "import [MASK]\n",
        "def f(self):\n    return [MASK].name",
        released.texts(1, shortest=400)[0] + "[MASK]",
    ]
    filler = pipeline("fill-mask", str(released.model("encoder")))
    told = filler(sentences, top_k=5, batch_size=len(sentences))
    tokens = [torch.tensor(tokenizer(sentence)["input_ids"]) for sentence in sentences]
    for ids, logits, answers in zip(tokens, released.checkpoint_logits("encoder", tokens), told, strict=True):
        (position,) = (ids == tokenizer.mask_token_id).nonzero().flatten().tolist()
        best = logits[position].softmax(dim=-1).topk(5)
        assert [answer["token"] for answer in answers] == best.indices.tolist()
        assert [answer["score"] for answer in answers] == pytest.approx(best.values.tolist(), rel=1e-4)
        for answer in answers:
            filled = ids.where(ids != tokenizer.mask_token_id, answer["token"])
            assert answer["sequence"] == tokenizer.decode(filled, skip_special_tokens=True)


def test_text_generation(released: Released) -> None:
    """What the pipeline writes greedily is what the checkpoint's own tensors say, token by token."""
    from transformers import pipeline

    tokenizer = load_tokenizer(released, "decoder")
    writer = pipeline("text-generation", str(released.model("decoder")))
    batch = prompts(released)
    told = writer(batch, batch_size=len(batch), max_new_tokens=12, do_sample=False, return_full_text=False)
    tokens = [torch.tensor(tokenizer(prompt)["input_ids"]) for prompt in batch]
    assert all(ids[0] == tokenizer.cls_token_id and ids[-1] != tokenizer.sep_token_id for ids in tokens)
    beginnings = list(tokens)
    for _ in range(12):
        logits = released.checkpoint_logits("decoder", tokens)
        tokens = [torch.cat((ids, row[-1:].argmax(dim=-1))) for ids, row in zip(tokens, logits, strict=True)]
    for prompt, ids, (answer,) in zip(beginnings, tokens, told, strict=True):
        written = ids[len(prompt) :].tolist()
        if tokenizer.sep_token_id in written:
            written = written[: written.index(tokenizer.sep_token_id)]
        assert answer["generated_text"] == tokenizer.decode(written)


def test_generation_stops_at_the_end_of_a_document(released: Released) -> None:
    model, tokenizer = load_model(released, "decoder"), load_tokenizer(released, "decoder")
    with torch.no_grad():
        model.decoder.bias[tokenizer.sep_token_id] = 1e4
    encoded = tokenizer("import os", return_tensors="pt")
    written = model.generate(**encoded, max_new_tokens=8, do_sample=False)[0]
    assert written.tolist() == [*encoded["input_ids"][0].tolist(), tokenizer.sep_token_id]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_generation_with_the_cache_equals_generation_without(released: Released, num_beams: int) -> None:
    model, tokenizer = load_model(released, "decoder"), load_tokenizer(released, "decoder")
    encoded = tokenizer(prompts(released), return_tensors="pt", padding=True)
    assert encoded["input_ids"].shape[1] > model.config.sliding_window
    cached, whole = (
        model.generate(
            **encoded, use_cache=use_cache, num_beams=num_beams, max_new_tokens=80, do_sample=False,
            output_logits=True, return_dict_in_generate=True,
        )
        for use_cache in (True, False)
    )  # fmt: skip
    assert cached.past_key_values is not None
    assert whole.past_key_values is None
    assert cached.sequences.tolist() == whole.sequences.tolist()
    for found, expected in zip(cached.logits, whole.logits, strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_eager_attention_equals_sdpa(released: Released, kind: Kind, side: str) -> None:
    tokenizer = load_tokenizer(released, kind)
    eager, sdpa = (
        logits_of(load_model(released, kind, attn_implementation=name), tokenizer, texts(released), side=side)
        for name in ("eager", "sdpa")
    )
    for found, expected in zip(eager, sdpa, strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_batch_padded_on_either_side_equals_one_by_one(released: Released, kind: Kind, attention: str) -> None:
    model = load_model(released, kind, attn_implementation=attention)
    tokenizer = load_tokenizer(released, kind)
    batch = texts(released)
    alone = [logits_of(model, tokenizer, [text])[0] for text in batch]
    assert max(map(len, alone)) > model.config.local_attention
    assert len({len(logits) for logits in alone}) == len(alone), "no padding would be seen"
    for side in ("left", "right"):
        for found, expected in zip(logits_of(model, tokenizer, batch, side=side), alone, strict=True):
            assert_close(found, expected)
