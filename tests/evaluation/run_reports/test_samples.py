"""Samples of tiny released models."""

import pytest
import transformers

from megatron_ettin.evaluation.run_reports.samples import continue_text, fill_mask, word_to_mask
from tests.evaluation.tiny_models import TEXT, released_model, tokenizer


def ids_of(text: str) -> list[int]:
    return tokenizer()(text, add_special_tokens=False)["input_ids"]


def test_filled_mask_equals_the_pipelines() -> None:
    tokens = ids_of(TEXT)[:12]
    filled = fill_mask(released_model("encoder"), tokenizer(), tokens, 5, num_guesses=3)
    assert filled.hidden == tokenizer().decode([tokens[5]])
    assert filled.text.replace("[MASK]", filled.hidden) == tokenizer().decode(tokens)

    pipeline = transformers.pipeline("fill-mask", model=released_model("encoder"), tokenizer=tokenizer())
    expected = pipeline(filled.text, top_k=3)
    assert [probability for _, probability in filled.guesses] == pytest.approx([guess["score"] for guess in expected])
    assert [token.strip() for token, _ in filled.guesses] == [guess["token_str"].strip() for guess in expected]


def test_word_to_mask_is_a_complete_word_near_the_middle() -> None:
    tokens = ids_of(TEXT)
    chosen = word_to_mask(tokenizer(), tokens)
    assert tokenizer().decode([tokens[chosen]]) in {f" {word}" for word in TEXT.split() if len(word) >= 3}
    assert abs(chosen - len(tokens) // 2) <= 6


def test_middle_is_masked_if_there_is_no_word() -> None:
    assert word_to_mask(tokenizer(), ids_of("1+2+3+4")) == len(ids_of("1+2+3+4")) // 2


def test_continuation_depends_on_the_seed_only() -> None:
    model = released_model("decoder")
    first = continue_text(model, tokenizer(), "the quick brown", num_tokens=12, seed=1)
    assert first.prompt == "the quick brown"
    assert first == continue_text(model, tokenizer(), "the quick brown", num_tokens=12, seed=1)
    others = {continue_text(model, tokenizer(), "the quick brown", num_tokens=12, seed=seed).text for seed in (2, 3, 4)}
    assert others != {first.text}
    assert 0 < len(ids_of(first.text)) <= 12
