"""lm-evaluation-harness scores whole documents with a released decoder."""

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
    """Whole documents of very different lengths that fit a row with their [CLS]."""
    tokenizer = load_tokenizer(released, "decoder")
    found = released.texts(400, longest=1500)
    short = [text for text in found if len(tokenizer(text)["input_ids"]) < ROW_TOKENS]
    assert len(short) >= NUM_DOCUMENTS
    return short[:NUM_DOCUMENTS]


@pytest.fixture
def task(released: Released, tmp_path: Path) -> Any:
    """A task file of one's own, as a user writes it, over a local jsonl file."""
    manager = pytest.importorskip("lm_eval.tasks").TaskManager
    file = tmp_path / "documents.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents(released)))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "own_documents.yaml").write_text(TASK.format(file=file, cache=tmp_path / "cache"))
    return manager(include_path=str(folder), include_defaults=False)


def own_sums(released: Released) -> list[float]:
    """The log-likelihood of each document's tokens after [CLS], as training saw them; [SEP] is no target."""
    tokenizer = TokenizerFiles.load(released.folder / "tokenizer")
    tokens = [torch.tensor([tokenizer.cls_id, *ids]) for ids in tokenizer.encode_batch(documents(released))]
    logits = released.checkpoint_logits("decoder", tokens)
    return [
        -float(torch.nn.functional.cross_entropy(row[:-1].double(), ids[1:], reduction="sum"))
        for ids, row in zip(tokens, logits, strict=True)
    ]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_whole_documents_score_as_in_the_checkpoint(released: Released, task: Any, batch_size: int) -> None:
    harness = pytest.importorskip("lm_eval.models.huggingface").HFLM
    evaluate = pytest.importorskip("lm_eval").simple_evaluate
    # The harness puts [CLS] before a whole document itself; the tokenizer must not add another one.
    model = harness(pretrained=str(released.model("decoder")), device="cpu", batch_size=batch_size, add_bos_token=False)
    told = evaluate(model=model, tasks=["own_documents"], task_manager=task, bootstrap_iters=0, log_samples=True)
    samples = sorted(told["samples"]["own_documents"], key=lambda sample: int(sample["doc_id"]))
    found = [float(sample["filtered_resps"][0]) for sample in samples]
    expected = own_sums(released)
    assert found == pytest.approx(expected, rel=1e-4)
    num_bytes = sum(len(text.encode()) for text in documents(released))
    told_bits = told["results"]["own_documents"]["bits_per_byte,none"]
    assert told_bits == pytest.approx(-sum(expected) / num_bytes / math.log(2), rel=1e-4)


def test_the_end_of_a_text_given_its_beginning(released: Released) -> None:
    """What multiple-choice tasks ask, with the harness's defaults: [CLS] stands before the beginning, once."""
    harness = pytest.importorskip("lm_eval.models.huggingface").HFLM
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    asked = [("import os\nimport", " sys"), ("def f(self):\n    return", " self.name"), ("class", " Queue:\n")]
    model = harness(pretrained=str(released.model("decoder")), device="cpu", batch_size=2)
    found = model.loglikelihood([instance("loglikelihood", {}, pair, i) for i, pair in enumerate(asked)])
    tokenizer = TokenizerFiles.load(released.folder / "tokenizer")
    beginnings, whole = (
        [[tokenizer.cls_id, *ids] for ids in tokenizer.encode_batch(side)]
        for side in (
            [beginning for beginning, _ in asked],
            ["".join(pair) for pair in asked],
        )
    )
    logits = released.checkpoint_logits("decoder", [torch.tensor(ids) for ids in whole])
    for (likelihood, greedy), beginning, ids, row in zip(found, beginnings, whole, logits, strict=True):
        end, predicted = torch.tensor(ids[len(beginning) :]), row[len(beginning) - 1 : -1].double()
        expected = -float(torch.nn.functional.cross_entropy(predicted, end, reduction="sum"))
        assert likelihood == pytest.approx(expected, rel=1e-4)
        assert greedy == bool((predicted.argmax(dim=-1) == end).all())
