"""Logits, losses, weights, schedules and rows equal those of the authors' own trainer (authors/README.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.batch import PackedBatch, assemble
from megatron_ettin.data.rows import RowDataset
from megatron_ettin.optim.schedules import Schedule
from tests.helpers.corpora import open_corpus
from tests.helpers.distributed import run_ranks
from tests.helpers.runs import tiny_run

NUMBERS = Path(__file__).parent / "authors"
EXPECTED = json.loads((NUMBERS / "expected.json").read_text())
OBJECTIVES = {"encoder": "mlm", "decoder": "clm"}
STEPS = 24
PAD_ID = EXPECTED["config"]["special"]["pad"]


def authors_run(kind: str, **overrides: Any) -> RunConfig:
    """Return the run whose numbers the authors' trainer computed."""
    theirs, training = EXPECTED["config"], EXPECTED[kind]
    model = ModelConfig(
        num_layers=theirs["num_layers"],
        hidden_size=theirs["hidden_size"],
        ffn_hidden_size=theirs["intermediate_size"],
        num_attention_heads=theirs["num_attention_heads"],
        vocab_size=theirs["vocab_size"],
        sliding_window=theirs["sliding_window"],
        rope_global_base=theirs["global_rope_base"],
        rope_local_base=theirs["local_rope_base"],
        attention_output_dropout=0.0,
        causal_window="authors",
    )
    return tiny_run(
        OBJECTIVES[kind],
        model=model,
        optimizer="stable_adamw",
        clip_grad=0.0,
        lr=training["lr"],
        weight_decay=training["wd"],
        adam_eps=training["eps"],
        **overrides,
    )


def our_weights(file: Path, model: ModelConfig) -> dict[str, np.ndarray]:
    """Return the authors' weights under our names."""
    import torch

    from megatron_ettin.convert.tensor_names import tensor_from_hf, tensor_names

    theirs = {name.replace("lm_head.", "head."): torch.from_numpy(values) for name, values in load_file(file).items()}
    weights = {}
    for name in tensor_names("mlm", model):
        authors_names = [
            part.replace("model.layers.", "bert.encoder.layers.").replace("model.", "bert.") for part in name.hf_names
        ]
        parts = [theirs[part] for part in authors_names]
        ours = tensor_from_hf(name, parts, model.num_attention_heads, padded_vocab_size=model.vocab_size)
        weights[name.canonical] = ours.numpy()
    return weights


def step_batch(kind: str, step: int, rows: slice = slice(None)) -> PackedBatch:
    """Return the rows of one of the authors' batches as one micro-batch without padding."""
    with np.load(NUMBERS / "batches.npz") as arrays:
        tokens, labels, mask = (
            arrays[f"{kind}.{step}.{name}"][rows].astype(np.int64) for name in ("input_ids", "labels", "attention_mask")
        )
    lengths = mask.sum(1)
    chunks = [row[:length] for row, length in zip(tokens, lengths, strict=True)]
    if kind == "decoder":
        targets = [np.append(chunk[1:], -100) for chunk in chunks]
    else:
        targets = [row[:length] for row, length in zip(labels, lengths, strict=True)]
    labels_T = np.concatenate(targets)
    scored_K = np.flatnonzero(labels_T != -100)
    return PackedBatch(
        tokens_T=np.concatenate(chunks),
        positions_T=np.concatenate([np.arange(length) for length in lengths]),
        cu_seqlens=np.cumsum([0, *lengths]).astype(np.int32),
        scored_K=scored_K,
        labels_K=labels_T[scored_K],
        real_tokens=int(lengths.sum()),
        num_rows=len(lengths),
    )


def train_as_they_did(kind: str, overrides: dict[str, Any], rows: int = 6) -> tuple[list[float], Any]:
    """Train the authors' 24 steps from their weights; return the losses and this rank's weights.

    Args:
        kind: encoder or decoder.
        overrides: settings of the run.
        rows: of a micro-batch; a step has six.
    """
    import torch

    from megatron_ettin.checkpoint.tensors import load_fresh_entries
    from megatron_ettin.train.step import train_step
    from tests.helpers.shards import rank_shards
    from tests.helpers.training import start_training

    config = authors_run(kind, **overrides)
    training = start_training(config)
    initial = our_weights(NUMBERS / "init_flexbert.safetensors", config.model)

    def read(wanted: dict[str, Any]) -> dict[str, Any]:
        return {name: torch.from_numpy(initial[name].copy()) for name in wanted}

    load_fresh_entries(training.model, training.optimizer, read)
    losses = []
    for step, scale in enumerate(EXPECTED[kind]["lr_scales"]):
        batches = [step_batch(kind, step, slice(start, start + rows)) for start in range(0, 6, rows)]
        result = train_step(training, batches, learning_rate=config.optimizer.lr * scale)
        losses.append(result.sums.loss)
    return losses, rank_shards(training.model)


@pytest.fixture(scope="module", params=OBJECTIVES)
def trained(request: pytest.FixtureRequest) -> tuple[str, list[float], dict[str, np.ndarray]]:
    """Kind, our losses over the authors' steps, and our final weights."""
    from tests.helpers.shards import assemble as assemble_shards

    ((losses, shards),) = run_ranks(1, train_as_they_did, request.param, {})
    return request.param, losses, assemble_shards([shards])


def test_losses_are_the_authors(trained: Any) -> None:
    kind, losses, _ = trained
    assert len(losses) == STEPS
    np.testing.assert_allclose(losses, EXPECTED[kind]["losses"], rtol=0, atol=1e-5)


def test_final_weights_are_the_authors(trained: Any) -> None:
    kind, _, weights = trained
    expected = our_weights(NUMBERS / f"final_{kind}_flexbert.safetensors", authors_run(kind).model)
    assert expected.keys() <= weights.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(weights[name], values, rtol=0, atol=5e-6, err_msg=name)


def test_logits_are_the_authors(trained: Any) -> None:
    kind = trained[0]
    with np.load(NUMBERS / "batches.npz") as arrays:
        lengths, tokens, positions, expected = (
            arrays[f"{kind}.eval.{name}"] for name in ("lengths", "tokens", "positions", "logits")
        )
    (logits,) = run_ranks(1, logits_of, kind, lengths.tolist(), tokens, positions)
    assert np.abs(expected).max() > 1.0, "logits this small would hide differences"
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


def logits_of(kind: str, lengths: list[int], tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return logits [K, V] of the authors' final weights at some positions of packed documents."""
    import torch

    from megatron_ettin.checkpoint.tensors import copy_weights, weight_entries
    from megatron_ettin.train.step import _to_device
    from tests.helpers.training import start_training

    config = authors_run(kind)
    training = start_training(config)
    final = our_weights(NUMBERS / f"final_{kind}_flexbert.safetensors", config.model)
    entries = weight_entries(training.model)
    copy_weights(entries, {name: torch.from_numpy(final[name]) for name in entries})
    batch = PackedBatch(
        tokens_T=tokens.astype(np.int64),
        positions_T=np.concatenate([np.arange(length) for length in lengths]),
        cu_seqlens=np.cumsum([0, *lengths]).astype(np.int32),
        scored_K=positions.astype(np.int64),
        labels_K=np.zeros(len(positions), np.int64),
        real_tokens=len(tokens),
    )
    on_device = _to_device(batch, training)
    with torch.no_grad():
        output = training.model.eval()(on_device.tokens_T, on_device.layout, on_device.scored_K)
    return np.asarray(output)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_micro_batch_means_by_rows_are_the_authors(kind: str) -> None:
    """Their trainer averages the means of micro-batches; the metric here is the mean per token, derived from them."""
    ((losses, _),) = run_ranks(1, train_as_they_did, kind, {"loss_normalization": "authors"}, 2)
    expected = []
    for step, means in enumerate(EXPECTED[kind]["micro2_parts"]):
        scored = [len(step_batch(kind, step, slice(start, start + 2)).scored_K) for start in (0, 2, 4)]
        expected.append(np.average(means, weights=scored))
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-5)
    assert np.abs(np.array(losses) - EXPECTED[kind]["losses"]).max() > 1e-3, "the two normalisations differ here"


def test_bf16_losses_are_near_the_authors_autocast() -> None:
    for kind in OBJECTIVES:
        ((losses, _),) = run_ranks(1, train_as_they_did, kind, {"bf16": True})
        np.testing.assert_allclose(losses, EXPECTED[kind]["losses_bf16_autocast"], rtol=0, atol=2e-3, err_msg=kind)


SCHEDULES = {
    "one_minus_sqrt_alpha_0_5": Schedule("1-sqrt", 1.0, 0.5, 0, 1000, 0),
    "one_minus_sqrt_alpha_0_04": Schedule("1-sqrt", 1.0, 0.04, 0, 1000, 0),
    "wsd_w200_d0_a0_02": Schedule("WSD", 1.0, 0.02, 200, 1000, 0),
    "wsd_w60_d200_a0_02": Schedule("WSD", 1.0, 0.02, 60, 1000, 200),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_the_authors(name: str) -> None:
    """The authors' warm-up starts at 1e-10 of the peak, ours at 0."""
    schedule, expected = SCHEDULES[name], EXPECTED["schedules"][name]
    times = EXPECTED["schedules"]["tokens"][: len(expected)]
    np.testing.assert_allclose([schedule(time) for time in times], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_rows_are_the_authors(kind: str) -> None:
    """The first row of each document equals theirs, but for what their dataset leaves to its preparation.

    Their documents were chunked beforehand, so one without [SEP] at its end is part of a longer one; here every
    document ends, and a decoder's row of it ends with [SEP]. An empty document has no row here. A document longer than
    a row is cut at the same place for both kinds here, one position before the decoder's cut there.
    """
    rows = json.loads((NUMBERS / "rows.json").read_text())
    cls_id, sep_id, size = 50281, 50282, rows["max_seq_len"]
    documents, expected = [], []
    for document, row in zip(rows["docs"], rows["rows"][kind], strict=True):
        content = document[1:] if document[0] == cls_id else document
        if content == [sep_id]:
            continue
        is_cut = len(content) - (content[-1] == sep_id) > size - 2
        documents.append(content)
        if kind == "decoder":
            row = row[: size - 1] if is_cut else row if row[-1] == sep_id else [*row, sep_id]
        expected.append(row)
    corpus = open_corpus(documents)
    ours = RowDataset(corpus, range(len(documents)), size, sep_id=sep_id, packing="none")
    chunks = [chunk for number in range(ours.num_rows) for chunk in ours.stored_row(number) if chunk.index == 0]
    assert len(chunks) == len(documents) == 9
    for chunk, row in zip(chunks, expected, strict=True):
        packed = assemble([chunk], cls_id=cls_id, sep_id=sep_id, close_every_chunk=kind == "encoder")
        assert packed.tokens_T.tolist() == row
