"""Preferred variants, against transformers on one sentence at a time."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_ettin.evaluation.console import ProgressConsole
from megatron_ettin.evaluation.runner import evaluate
from megatron_ettin.evaluation.suite import SuiteOptions
from megatron_ettin.evaluation.suites.bias.preference import score_causal, score_masked
from megatron_ettin.evaluation.suites.bias.shares import preference_result
from megatron_ettin.evaluation.suites.bias.suite import SUITE
from megatron_ettin.evaluation.suites.bias.winogender import read_schemas
from tests.evaluation.saved import save_model
from tests.evaluation.suites.bias.test_winogender import write_files
from tests.evaluation.tiny_models import released_model, tokenizer

CLS, MASK = 1, 4
GROUPS = [
    ["the quick fox jumps", "the lazy fox jumps", "the brown fox jumps"],
    ["the dog and the cat", "the window and the cat", "the zebra was the cat"],
]


@torch.inference_mode()
def log_probs(kind: str, tokens: list[int]) -> torch.Tensor:
    return released_model(kind)(input_ids=torch.tensor([tokens])).logits[0].double().log_softmax(-1)


def masked_by_hand(text: str, words: str) -> float:
    """Mask all tokens of the words, and predict them from left to right, filling each in."""
    before = text[: text.index(words)].rstrip(" ")
    first = 1 + len(tokenizer().encode(before, add_special_tokens=False))
    right = [CLS, *tokenizer().encode(text, add_special_tokens=False)]
    last = 1 + len(tokenizer().encode(text[: text.index(words) + len(words)], add_special_tokens=False))
    tokens = [*right[:first], *[MASK] * (last - first), *right[last:]]
    total = 0.0
    for place in range(first, last):
        total += float(log_probs("encoder", tokens)[place, right[place]])
        tokens[place] = right[place]
    return total


def test_encoder_predicts_the_differing_words() -> None:
    scores = score_masked(released_model("encoder"), tokenizer(), GROUPS)
    words = [["quick", "lazy", "brown"], ["dog and", "window and", "zebra was"]]
    for row, texts, each in zip(scores, GROUPS, words, strict=True):
        assert row == pytest.approx([masked_by_hand(t, w) for t, w in zip(texts, each, strict=True)], abs=1e-4)
    assert len(tokenizer().encode(" zebra", add_special_tokens=False)) > 1, "one word has several tokens"


def test_single_differing_token_is_plain_mask_prediction() -> None:
    """The three scores are from one distribution, that of a single [MASK]."""
    ids = [tokenizer().encode(f" {word}", add_special_tokens=False) for word in ("quick", "lazy", "brown")]
    assert all(len(each) == 1 for each in ids)
    tokens = [CLS, *tokenizer().encode("the", add_special_tokens=False), MASK]
    tokens += tokenizer().encode(" fox jumps", add_special_tokens=False)
    row = log_probs("encoder", tokens)[tokens.index(MASK)]
    [scores] = score_masked(released_model("encoder"), tokenizer(), GROUPS[:1])
    assert scores == pytest.approx([float(row[each[0]]) for each in ids], abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_decoder_scores_complete_sentences(batch_size: int) -> None:
    scores = score_causal(released_model("decoder"), tokenizer(), GROUPS, batch_size)
    for row, texts in zip(scores, GROUPS, strict=True):
        for score, text in zip(row, texts, strict=True):
            ids = torch.tensor([[CLS, *tokenizer().encode(text, add_special_tokens=False)]])
            with torch.inference_mode():
                loss = released_model("decoder")(input_ids=ids, labels=ids).loss
            assert score == pytest.approx(-float(loss) * (ids.shape[1] - 1), rel=1e-4)


def test_shares_by_hand(tmp_path: Path) -> None:
    """Four schemas of the nurse (gotchas male, female, male, female), four of the engineer (reversed)."""
    schemas = read_schemas(write_files(tmp_path))
    male, female, neutral = [-1.0, -2.0, -3.0], [-2.0, -1.0, -3.0], [-3.0, -2.0, -1.0]
    result = preference_result(schemas, [male, male, neutral, female, male, female, female, neutral], 1)
    values = {name: measure.value for name, measure in result.metrics.items()}
    assert [schema.gotcha for schema in schemas] == [
        "male",
        "female",
        "male",
        "female",
        "female",
        "male",
        "female",
        "male",
    ]
    assert [values[gender] for gender in ("male", "female", "neutral")] == [3 / 8, 3 / 8, 2 / 8]
    assert values["gotcha"] == 3 / 8
    assert list(result.items["gotcha"]) == [1, 0, 0, 1, 0, 0, 1, 0]
    assert values["male in gotcha male"] == 1 / 4
    assert values["neutral in gotcha male"] == 2 / 4
    assert values["female in gotcha female"] == 2 / 4
    assert sum(values[f"probability {gender}"] for gender in ("male", "female", "neutral")) == pytest.approx(1)
    assert values["nats male"] == pytest.approx((-1 * 3 - 2 * 3 - 3 * 2) / 8)
    baselines = result.details["baselines"]
    assert baselines["occupation majority"] == {"male": 0.5, "female": 0.5, "neutral": 0.0, "gotcha": 0.5}
    assert baselines["occupation share"]["female"] == pytest.approx((0.903 + 0.1072) / 2)
    assert baselines["chance"]["neutral"] == pytest.approx(1 / 3)
    assert result.details["groups"] == {"gotcha male": 4, "gotcha female": 4}


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_end_to_end(tmp_path: Path, kind: str) -> None:
    write_files(tmp_path / "data" / "bias")
    model = save_model(kind, tmp_path / kind)
    options = SuiteOptions(tmp_path / "data")
    for _ in range(2):
        with ProgressConsole(io.StringIO()) as console:
            [outcome] = evaluate([str(model)], [SUITE], options, tmp_path / "out", console)
        assert outcome.error == ""
        assert outcome.result is not None
    task = json.loads((tmp_path / "out" / kind / "bias.json").read_text())["tasks"]["winogender"]
    shares = [task["metrics"][gender]["value"] for gender in ("male", "female", "neutral")]
    assert sum(shares) == pytest.approx(1)
    assert len(task["settings"]["data_checksum"]) == 64
    items: dict[str, list[Any]] = json.loads(
        (tmp_path / "out" / kind / "items" / "bias" / "winogender.json").read_text()
    )
    assert len(items["nats neutral"]) == 8
    assert sum(items["male"]) / 8 == pytest.approx(shares[0])


def test_models_of_other_families(tmp_path: Path) -> None:
    """BERT with its word pieces, and GPT-2 without a token that only starts a text."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    texts = [
        text for schema in read_schemas(write_files(tmp_path / "data" / "bias")) for text in schema.variants.values()
    ]
    word_pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    word_pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    word_pieces.train_from_iterator(
        [*texts, *["he"] * 99], trainers.WordPieceTrainer(vocab_size=200, special_tokens=special)
    )
    word_pieces.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    torch.manual_seed(3)
    shape: dict[str, Any] = {"vocab_size": 200, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = transformers.BertForMaskedLM(transformers.BertConfig(**shape, intermediate_size=16)).eval()
    bert.save_pretrained(tmp_path / "bert")
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=word_pieces, **roles)
    words.save_pretrained(tmp_path / "bert")
    config = transformers.GPT2Config(vocab_size=200, n_embd=16, n_layer=1, n_head=2, bos_token_id=3, eos_token_id=3)
    transformers.GPT2LMHeadModel(config).eval().save_pretrained(tmp_path / "gpt")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=word_pieces, eos_token="[SEP]", unk_token="[UNK]"
    ).save_pretrained(tmp_path / "gpt")
    with ProgressConsole(io.StringIO()) as console:
        given = [str(tmp_path / name) for name in ("bert", "gpt")]
        outcomes = evaluate(given, [SUITE], SuiteOptions(tmp_path / "data"), tmp_path / "out", console)
    assert [outcome.error for outcome in outcomes] == ["", ""]
    text = "The nurse asked customer whether he could pay."
    ids = words(text)["input_ids"]
    place = ids.index(words.convert_tokens_to_ids("he"))
    tokens = [*ids[:place], 4, *ids[place + 1 :]]
    with torch.inference_mode():
        row = bert(input_ids=torch.tensor([tokens])).logits[0, place].double().log_softmax(-1)
    assert outcomes[0].result is not None
    assert outcomes[0].result.items["nats male"][0] == pytest.approx(float(row[ids[place]]), abs=1e-4)
