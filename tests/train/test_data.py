"""Runs on blends, with batches in tokens, a warm-up of the batch and a schedule of masks, on any layout and resumed."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from megatron_ettin.checkpoint.folder.layout import read_run_json, resolve_checkpoint
from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.training_order import TOTALS_FILE
from megatron_ettin.errors import ConfigError
from tests.helpers.corpora import babble, write_corpus, write_word_tokenizer
from tests.helpers.distributed import run_ranks
from tests.helpers.launches import launch, metrics, prepare
from tests.helpers.runs import TINY, tiny_run

BLEND = {"split_by": "hash", "split": "80,20"}
IN_TOKENS = {
    "packing": "none",
    "chunk_min_size": 20,
    "chunk_skip_size": 6,
    "global_batch_tokens": 500,
    "micro_batch_tokens": 150,
    "batch_warmup_tokens": 1500,
    "batch_warmup_start": 200,
    "mlm_probability_schedule": "0:0.4,1000:0.2",
}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("material")
    books, web = (
        write_corpus(folder / name, babble(number, TINY.vocab_size, seed=number))
        for name, number in (("books", 60), ("web", 90))
    )
    tokenizer = write_word_tokenizer(folder / "tokenizer", [f"word{i}" for i in range(TINY.vocab_size - 5)])
    return {"data_path": f"0.7 {books} 0.3 {web}", "tokenizer_model": str(tokenizer)}


def settings(material: dict[str, str], objective: str, save: Path, **more: Any) -> RunConfig:
    small: dict[str, Any] = {"micro_batch_size": 2, "global_batch_size": 4, "train_iters": 8, "log_interval": 1}
    small |= {"eval_interval": 4, "save_interval": 4, "save": str(save)}
    return tiny_run(objective, **(small | material | more))


@pytest.mark.parametrize(
    ("objective", "more"),
    [("mlm", IN_TOKENS), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("clm", IN_TOKENS), ("mlm", {})))],
)
def test_layout_and_resume_do_not_change_a_run(
    tmp_path: Path, material: dict[str, str], objective: str, more: dict[str, Any]
) -> None:
    """One uninterrupted rank, and two ranks that stop and resume: the same rows, masks and losses."""
    uninterrupted, parts = tmp_path / "uninterrupted", tmp_path / "parts"
    run_ranks(1, launch, settings(material, objective, uninterrupted, **BLEND, **more))
    run_ranks(2, launch, settings(material, objective, parts, exit_interval=3, **BLEND, **more))
    run_ranks(2, launch, settings(material, objective, parts, load=str(parts), **BLEND, **more))
    for one, other in zip(metrics(uninterrupted), metrics(parts), strict=True):
        assert one.keys() == other.keys()
        for name in ("step", "tokens", "scored_tokens", *(["mask_ratio"] if objective == "mlm" else [])):
            assert one[name] == other[name], name
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    run_jsons = [read_run_json(resolve_checkpoint(save)) for save in (uninterrupted, parts)]
    for key in ("consumed_samples", "consumed_tokens", "source_rows", "data_order"):
        assert run_jsons[0][key] == run_jsons[1][key]
    assert run_jsons[0]["data_changes"] == []
    rows = run_jsons[0]["source_rows"]
    assert sum(rows) == run_jsons[0]["consumed_samples"]
    assert abs(rows[0] - 0.7 * sum(rows)) < 1
    last = metrics(uninterrupted)[-1]
    for name in ("loss", {"mlm": "masked_accuracy", "clm": "perplexity"}[objective]):
        total, *of_sources = (last[f"validation_{name}{source}"] for source in ("", "_books", "_web"))
        assert min(of_sources) <= total <= max(of_sources), name
        assert len(set(of_sources)) == 2
    evaluation = settings(material, objective, uninterrupted, load=str(uninterrupted), eval_only=True, **BLEND, **more)
    report = json.loads(run_ranks(1, launch, evaluation)[0].splitlines()[-1])
    assert report["sources"].keys() == {"books", "web"}
    for source, figures in report["sources"].items():
        assert figures["validation_loss"] == pytest.approx(last[f"validation_loss_{source}"], rel=1e-6)
    assert sum(figures["scored_tokens"] for figures in report["sources"].values()) == report["scored_tokens"]
    if more and objective == "mlm":
        steps = np.diff([0, *(line["tokens"] for line in metrics(uninterrupted))])
        assert steps.max() <= 500
        assert steps[0] <= 200 < steps[-1], "the batch grows"
        assert [line["mask_ratio"] for line in metrics(uninterrupted)][::7] == [0.4, 0.2]


def test_other_data_is_refused_named_and_recorded(tmp_path: Path, material: dict[str, str]) -> None:
    from megatron_ettin.train.export_order import export_training_order
    from megatron_ettin.train.preflight.history import check_history

    run_ranks(1, launch, settings(material, "mlm", tmp_path, train_iters=2))
    words = material["data_path"].split()
    other = material | {"data_path": f"0.6 {words[1]} 0.4 {words[3]}"}
    resumed = settings(other, "mlm", tmp_path, load=str(tmp_path), train_iters=4)
    with pytest.raises(ConfigError, match="the order of its data has changed: blend; --accept-data-change"):
        check_history(prepare(resumed))
    run_ranks(1, launch, settings(other, "mlm", tmp_path, load=str(tmp_path), train_iters=4, accept_data_change=True))
    run_json = read_run_json(resolve_checkpoint(tmp_path))
    [change] = run_json["data_changes"]
    assert change["step"] == 2
    assert change["changed"]["blend"] == {"was": [["7/10", 0], ["3/10", 0]], "is": [["3/5", 0], ["2/5", 0]]}
    # Only the checkpoint at the change contains the order before it.
    output = tmp_path / "order"
    export_training_order(tmp_path, output, lambda line: None)
    assert len(list(output.iterdir())) == 2
    shutil.rmtree(tmp_path / "step_0000002")
    message = r"its data changed at step 2 \(blend\), and the checkpoint of that step, .* is gone"
    with pytest.raises(ConfigError, match=message):
        export_training_order(tmp_path, tmp_path / "other", lambda line: None)
    # From now on, this is the run's data.
    check_history(prepare(settings(other, "mlm", tmp_path, load=str(tmp_path), train_iters=6)))


def test_another_batch_size_continues_from_the_row_reached(tmp_path: Path, material: dict[str, str]) -> None:
    run_ranks(1, launch, settings(material, "mlm", tmp_path, train_iters=2))
    later = settings(material, "mlm", tmp_path, load=str(tmp_path), train_iters=4, global_batch_size=6)
    run_ranks(1, launch, later)
    assert read_run_json(resolve_checkpoint(tmp_path))["consumed_samples"] == 2 * 4 + 2 * 6


def replay(record: list[dict[str, Any]], objective: Any, before: int) -> tuple[list[int], list[int], list[int]]:
    """Build one batch from the exported records of a step, by the objective."""
    from megatron_ettin.data.chunks import Chunk

    rows: dict[int, list[Any]] = {}
    for each in record:
        ids = each["input_ids"]
        closed = ids[-1] == 2
        tokens = np.array(ids[1 : len(ids) - closed])
        rows.setdefault(each["row"], []).append(Chunk(each["document"], each["piece"], tokens, closed))
    batch = objective.train_batch([tuple(row) for row in rows.values()], list(rows), before)
    return batch.tokens_T.tolist(), batch.scored_K.tolist(), batch.labels_K.tolist()


@pytest.mark.parametrize(
    ("objective", "more"),
    [
        ("mlm", IN_TOKENS),
        ("clm", {}),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("mlm", {}), ("clm", IN_TOKENS))),
    ],
)
def test_the_exported_order_replays_the_run(
    tmp_path: Path, material: dict[str, str], objective: str, more: dict[str, Any]
) -> None:
    from megatron_ettin.objectives.objective import build_objective
    from megatron_ettin.train.datasets import build_training_data
    from megatron_ettin.train.export_order import export_training_order

    save, output = tmp_path / "run", tmp_path / "run" / "training_order"
    run = settings(material, objective, save, **BLEND, **more)
    run_ranks(1, launch, run)
    export_training_order(save, output, lambda line: None)
    folders = sorted(path.name for path in output.iterdir())
    assert folders == ["steps_0000000-0000004", "steps_0000004-0000008"]
    records = [record for folder in folders for record in pq.read_table(output / folder).to_pylist()]
    assert sum(len(record["input_ids"]) for record in records) == metrics(save)[-1]["tokens"]
    tokenizer = TokenizerFiles.load(material["tokenizer_model"])
    builder = build_objective(run, tokenizer)
    data = build_training_data(run, tokenizer, builder)
    assert {record["source"] for record in records} == {"books", "web"}
    for step in range(8):
        own = [record for record in records if record["step"] == step]
        rows = data.plan.of(step)
        batch = builder.train_batch(
            data.rows.rows(rows.start, rows.stop), range(rows.start, rows.stop), max(0, rows.tokens_before)
        )
        assert replay(own, builder, max(0, rows.tokens_before)) == (
            batch.tokens_T.tolist(), batch.scored_K.tolist(), batch.labels_K.tolist()
        )  # fmt: skip
        assert all(record["position"] == 0 for record in own) or not more
    # Existing folders are kept, and a missing one is written again, with the same content.
    kept = (output / folders[0] / "part-00000.parquet").read_bytes()
    for path in (output / folders[0]).iterdir():
        path.unlink()
    lines: list[str] = []
    export_training_order(save, output, lines.append)
    assert lines[1] == f"{folders[1]}: already written"
    assert (output / folders[0] / "part-00000.parquet").read_bytes() == kept
    # Also after the checkpoint between them was deleted: no step is written twice.
    shutil.rmtree(save / "step_0000004")
    lines.clear()
    export_training_order(save, output, lines.append)
    assert lines == [f"{folder}: already written" for folder in folders]
    assert sorted(path.name for path in output.iterdir()) == folders
    figures = json.loads((output / folders[1] / TOTALS_FILE).read_text())
    (output / folders[1] / TOTALS_FILE).write_text(json.dumps(figures | {"last_row": figures["last_row"] + 1}))
    with pytest.raises(ConfigError, match=r"--output .*training_order: contains the order of another run up to step 8"):
        export_training_order(save, output, lines.append)


def test_an_order_of_other_corpora_is_not_exported(tmp_path: Path, material: dict[str, str]) -> None:
    export_training_order = import_module("tools.export_training_order")

    books = write_corpus(tmp_path / "books", babble(40, TINY.vocab_size))
    run_ranks(1, launch, settings(material | {"data_path": books}, "mlm", tmp_path / "run", train_iters=1))
    write_corpus(tmp_path / "books", babble(40, TINY.vocab_size, seed=9))
    with pytest.raises(ConfigError, match="the corpora are not those it was trained on; changed: data files"):
        export_training_order.main(["--load", str(tmp_path / "run")])
    with pytest.raises(ConfigError, match="has no complete checkpoint"):
        export_training_order.main(["--load", str(tmp_path)])
