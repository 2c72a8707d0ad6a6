"""lm-evaluation-harness scores complete documents with a released decoder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from tests.clients.released import Released, load_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROW_TOKENS = 256
NUM_DOCUMENTS = 24
TASK = """\
task: own_documents
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
  cache_dir: {cache}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
"""


def documents(released: Released) -> list[str]:
    """Complete documents of very different lengths that fit a row with their [CLS]."""
    tokenizer = load_tokenizer(released, "decoder")
    texts = released.texts(400, longest=1500)
    short = [text for text in texts if len(tokenizer(text)["input_ids"]) < ROW_TOKENS]
    assert len(short) >= NUM_DOCUMENTS
    return short[:NUM_DOCUMENTS]


@pytest.fixture
def task(released: Released, tmp_path: Path) -> Any:
    """A user's task file over a local jsonl file."""
    manager = pytest.importorskip("lm_eval.tasks").TaskManager
    file = tmp_path / "documents.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents(released)))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "own_documents.yaml").write_text(TASK.format(file=file, cache=tmp_path / "cache"))
    return manager(include_path=str(folder), include_defaults=False)


def own_sums(released: Released) -> list[float]:
    """The log-likelihood of each document's tokens after [CLS], as in training; [SEP] is not scored."""
    tokenizer = TokenizerFiles.load(released.folder / "tokenizer")
    tokens = [torch.tensor([tokenizer.cls_id, *ids]) for ids in tokenizer.encode_batch(documents(released))]
    logits = released.checkpoint_logits("decoder", tokens)
    return [
        -float(torch.nn.functional.cross_entropy(row[:-1].double(), ids[1:], reduction="sum"))
        for ids, row in zip(tokens, logits, strict=True)
    ]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_document_scores_equal_the_checkpoints(released: Released, task: Any, batch_size: int) -> None:
    harness = pytest.importorskip("lm_eval.models.huggingface").HFLM
    evaluate = pytest.importorskip("lm_eval").simple_evaluate
    # The harness adds [CLS] to a document, so the tokenizer must not.
    model = harness(pretrained=str(released.model("decoder")), device="cpu", batch_size=batch_size, add_bos_token=False)
    results = evaluate(model=model, tasks=["own_documents"], task_manager=task, bootstrap_iters=0, log_samples=True)
    samples = sorted(results["samples"]["own_documents"], key=lambda sample: int(sample["doc_id"]))
    scores = [float(sample["filtered_resps"][0]) for sample in samples]
    expected = own_sums(released)
    assert scores == pytest.approx(expected, rel=1e-4)
    num_bytes = sum(len(text.encode()) for text in documents(released))
    bits_per_byte = results["results"]["own_documents"]["bits_per_byte,none"]
    assert bits_per_byte == pytest.approx(-sum(expected) / num_bytes / math.log(2), rel=1e-4)


def test_continuation_scores_equal_the_checkpoints(released: Released) -> None:
    """The requests of multiple-choice tasks, with the harness's defaults: one [CLS] before the context."""
    harness = pytest.importorskip("lm_eval.models.huggingface").HFLM
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    requests = [("import os\nimport", " sys"), ("def f(self):\n    return", " self.name"), ("class", " Queue:\n")]
    model = harness(pretrained=str(released.model("decoder")), device="cpu", batch_size=2)
    likelihoods = model.loglikelihood([instance("loglikelihood", {}, pair, i) for i, pair in enumerate(requests)])
    tokenizer = TokenizerFiles.load(released.folder / "tokenizer")
    contexts, complete = (
        [[tokenizer.cls_id, *ids] for ids in tokenizer.encode_batch(side)]
        for side in (
            [context for context, _ in requests],
            ["".join(pair) for pair in requests],
        )
    )
    logits = released.checkpoint_logits("decoder", [torch.tensor(ids) for ids in complete])
    for (likelihood, greedy), context, ids, row in zip(likelihoods, contexts, complete, logits, strict=True):
        continuation, predicted = torch.tensor(ids[len(context) :]), row[len(context) - 1 : -1].double()
        expected = -float(torch.nn.functional.cross_entropy(predicted, continuation, reduction="sum"))
        assert likelihood == pytest.approx(expected, rel=1e-4)
        assert greedy == bool((predicted.argmax(dim=-1) == continuation).all())
