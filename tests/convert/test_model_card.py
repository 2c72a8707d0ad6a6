"""The model card: it states what the run records, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from megatron_ettin.checkpoint.folder.metrics_file import metrics_at, read_metrics
from megatron_ettin.config.run import RunConfig
from megatron_ettin.convert.model_card import CardSubject, write_model_card
from megatron_ettin.convert.training_facts import data_blend, phase_of, short_count, short_path
from tests.convert.samples import MODEL

PARENT = "/home/me/runs/encoder/step_0000600"


def run_of(objective: str = "clm", **changes: Any) -> dict[str, Any]:
    config = RunConfig(model=MODEL).to_dict()
    config["training"] |= {"objective": objective, "global_batch_size": 4608, "bf16": True}
    config["optimizer"] |= {"lr": 5e-4, "lr_warmup_iters": 700}
    config["data"] |= {"data_path": "/data/books"}
    lineage = [
        {"objective": "mlm", "steps": 600, "tokens": 1_700_000_000, "parent": ""},
        {"objective": objective, "steps": 20, "tokens": 50_000_000, "phase": "cross", "parent": PARENT},
    ]
    run = {"step": 20, "consumed_tokens": 50_000_000, "objective": objective, "config": config, "lineage": lineage}
    return run | {"validation_loss": 2.0} | changes


def card_of(run: dict[str, Any], **subject: Any) -> str:
    facts: dict[str, Any] = {"model": MODEL, "objective": run["objective"], "num_parameters": 123_456}
    return write_model_card(CardSubject(run=run, **(facts | subject)))


def test_the_front_matter_is_valid_for_the_hub() -> None:
    card = card_of(run_of(), license="apache-2.0")
    _, front, _ = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["modernbert", "ettin", "decoder"],
    }
    assert "license: unknown" in card_of(run_of())


def test_the_card_states_recipe_tokens_blend_lineage_and_results() -> None:
    card = card_of(run_of(), metrics={"loss": 2.25, "step": 20})
    for line in (
        "Pretrained with megatron_ettin on 1.75B tokens. 123,456 parameters: 4 layers, width 64, 2 heads, "
        "vocabulary 128.",
        "|  | mlm | 600 | 1,700,000,000 (1.7B) | new weights |",
        "| cross | clm | 20 | 50,000,000 (50M) | encoder/step_0000600 |",
        "| batch size in rows | 4,608 |",
        "| peak learning rate | 0.0005 |",
        "| warm-up | 700 steps |",
        "| betas | 0.9 and 0.98 |",
        "| precision | bfloat16 with fp32 master weights |",
        "| books |  |",
        "| validation loss, nats per scored token | 2.0000 |",
        "| validation perplexity | 7.3891 |",
        "| training loss, nats per scored token | 2.2500 |",
        "| attention | causal; 2 global layers, 2 local (63 positions back, 0 ahead) |",
        "@article{weller2025seqvsseq,",
    ):
        assert line in card.splitlines(), line
    assert "masking rate" not in card
    assert "| masking rate | 0.3 |" in card_of(run_of("mlm"))
    assert "/home/me" not in card


def test_warm_up_and_decay_are_stated_in_the_units_of_the_run() -> None:
    run = run_of()
    counted = {"lr_warmup_iters": 0, "lr_warmup_tokens": 3_000_000_000, "lr_wsd_decay_tokens": 50_000_000_000}
    run["config"]["optimizer"] |= counted
    lines = card_of(run).splitlines()
    assert "| warm-up | 3B tokens |" in lines
    assert "| decay | 50B tokens |" in lines


def test_a_relabelled_model_has_no_results_of_another_objective() -> None:
    card = card_of(run_of("mlm"), objective="clm")
    assert "The weights of an encoder, re-labelled without further training." in card
    assert "## Results" not in card


def test_a_run_with_few_records_gives_a_short_card() -> None:
    bare = {"step": 0, "consumed_tokens": 0, "objective": "mlm", "config": {}, "lineage": []}
    card = card_of(bare)
    assert "## Results" not in card
    assert "Settings" not in card
    assert "None" not in card


@pytest.mark.parametrize(
    ("given", "blend"),
    [
        ("", []),
        ("/a/books", [("books", None)]),
        ("/a/books /b/web", [("books", None), ("web", None)]),
        ("0.6 /a/books 0.2 web", [("books", 0.75), ("web", 0.25)]),
        ("3B /a/books 1B web", [("books", 0.75), ("web", 0.25)]),
        ("0 /a/books", [("0", None), ("books", None)]),
        ("1 2 3", [("1", None), ("2", None), ("3", None)]),
    ],
)
def test_the_blend_is_read_in_megatrons_format(given: str, blend: list[tuple[str, float | None]]) -> None:
    corpora = data_blend({"config": {"data": {"data_path": given}}})
    assert [name for name, _ in corpora] == [name for name, _ in blend]
    assert [share for _, share in corpora] == [share if share is None else pytest.approx(share) for _, share in blend]


def test_short_counts_paths_and_phases() -> None:
    assert [short_count(n) for n in (0, 999, 1000, 8_500_000_000, 1.7e12)] == ["0", "999", "1K", "8.5B", "1.7T"]
    assert [short_path(p) for p in ("", "hub", "/runs/a/step_1")] == ["", "hub", "a/step_1"]
    assert phase_of({"config": {"training": {"phase": "decay"}}}) == "decay"
    assert phase_of({"config": {"training": {}}}) == "pretrain"


def test_the_metrics_of_a_step_are_the_latest_up_to_it(tmp_path: Any) -> None:
    lines = ['{"step": 10, "loss": 3.0, "validation_loss": 2.9}', '{"step": 20, "loss": 2.0}', "[]", '{"step": 2']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    records = read_metrics(tmp_path)
    assert len(records) == 2
    assert metrics_at(records, 25) == {"step": 20, "loss": 2.0, "validation_loss": 2.9}
    assert metrics_at(records, 19)["loss"] == 3.0
    assert metrics_at(records, 9) == {}
    assert read_metrics(tmp_path / "elsewhere") == ()
