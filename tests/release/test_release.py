"""tools/release.py: one revision for each checkpoint, resumed after a kill, and refused input."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from safetensors.torch import load_file

from megatron_ettin.convert.options import ExportOptions
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import file_sha256
from megatron_ettin.release.manifest import read_manifest
from megatron_ettin.release.plan.revisions import find_revisions
from tests.convert.test_tools import BLOCKED, ROOT, run
from tests.release.runs import write_run

release = import_module("tools.release")


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Three phases of one encoder."""
    phases = {"pretrain": (10, 20), "extend": (5,), "decay": (3,)}
    for phase, steps in phases.items():
        write_run(tmp_path / phase, phase=phase, steps=steps)
    return [tmp_path / phase for phase in phases]


def arguments(runs: list[Path], save: Path, *more: str) -> list[str]:
    return ["--load", *map(str, runs), "--save", str(save), "--workers", "1", *more]


def files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): file_sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_checkpoint_becomes_a_revision_and_a_second_run_verifies_them(
    tmp_path: Path, runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert release.main(arguments(runs[::-1], tmp_path / "out", "--license", "apache-2.0")) == 0
    names = ["step10", "step20", "ext5", "decay3"]
    assert sorted(p.name for p in (tmp_path / "out" / "revisions").iterdir()) == sorted(names)
    table = list(csv.DictReader((tmp_path / "out" / "main" / "CHECKPOINTS.csv").open()))
    assert list(table[0]) == ["revision", "phase", "step", "tokens", "learning_rate", "loss", "checksum"]
    assert [row["revision"] for row in table] == names, "in the order of training, not of the flags"
    assert [row["tokens"] for row in table] == ["10000", "20000", "5000", "3000"]
    assert (float(table[1]["learning_rate"]), float(table[1]["loss"])) == (0.02, 4.8)
    assert table[3]["loss"] == "", "nothing was logged up to that step"
    for row in table:
        weights = tmp_path / "out" / "revisions" / row["revision"] / "model.safetensors"
        assert row["checksum"] == file_sha256(weights)
        assert load_file(weights)["model.final_norm.weight"].eq(int(row["step"]) / 100).all(), "this step's weights"

    main = files(tmp_path / "out" / "main")
    last = files(tmp_path / "out" / "revisions" / "decay3")
    assert {name for name in last if main[name] != last[name]} == {"README.md"}
    assert main.keys() - last.keys() == {
        "CHECKPOINTS.csv",
        "configs/pretrain.yaml",
        "configs/extend.yaml",
        "configs/decay.yaml",
    }
    card = (tmp_path / "out" / "main" / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "| `ext5` | extend | 5 | 5K |" in card
    capsys.readouterr()

    before = files(tmp_path / "out")
    assert release.main(arguments(runs, tmp_path / "out", "--license", "apache-2.0")) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(f"{n}: verified, was finished before" for n in names)
    assert files(tmp_path / "out") == before


def test_mntp_checkpoints_become_encoders_without_head(tmp_path: Path) -> None:
    from transformers import AutoModel

    write_run(tmp_path / "cross", phase="cross", steps=(4,), trained_by="mntp")
    assert release.main(arguments([tmp_path / "cross"], tmp_path / "out")) == 0
    for folder in (tmp_path / "out" / "main", tmp_path / "out" / "revisions" / "cross4"):
        assert json.loads((folder / "config.json").read_text())["architectures"] == ["ModernBertModel"]
        model, loading = AutoModel.from_pretrained(folder, output_loading_info=True)
        assert (type(model).__name__, any(loading.values())) == ("ModernBertModel", False)
        card = (folder / "README.md").read_text()
        assert "pipeline_tag: feature-extraction" in card
        assert "| cross | mntp | 4 | 4,000 (4K) | a/step_1 |" in card
    table = list(csv.DictReader((tmp_path / "out" / "main" / "CHECKPOINTS.csv").open()))
    assert [(row["revision"], row["phase"]) for row in table] == [("cross4", "cross")]


def test_release_contains_no_private_paths(tmp_path: Path, runs: list[Path]) -> None:
    assert release.main(arguments(runs[1:], tmp_path / "out", "--no-check")) == 0
    text = [p.read_text() for p in (tmp_path / "out" / "main").rglob("*") if p.suffix in (".md", ".yaml", ".json")]
    assert not any("/home/me" in part or str(tmp_path) in part for part in text)
    config = yaml.safe_load((tmp_path / "out" / "main" / "configs" / "extend.yaml").read_text())
    assert config["data"]["data_path"] == "3 books 1 web"
    assert config["training"]["phase"] == "extend"
    card = (tmp_path / "out" / "main" / "README.md").read_text()
    assert "| books | 75.00% |" in card
    assert "| a/step_1 |" in card


@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_killed_release_resumes_and_damaged_revisions_are_converted_again(
    tmp_path: Path, runs: list[Path], workers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    uninterrupted, out = tmp_path / "uninterrupted", tmp_path / "out"
    assert release.main(arguments(runs, uninterrupted, "--no-check")) == 0
    command = [sys.executable, "tools/release.py", *arguments(runs, out, "--no-check"), "--workers", workers]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while not list((out / "manifests").glob("*.json")) and process.poll() is None:
        time.sleep(0.005)
    workers_left = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not psutil.wait_procs(workers_left, timeout=30)[1], "no worker outlives the tool"
    finished = {path.stem for path in (out / "manifests").glob("*.json")}
    assert finished, "the first revision was finished"
    (out / "revisions" / ".ext5.1.partial").mkdir()
    damaged = out / "revisions" / min(finished) / "config.json"
    damaged.write_text(damaged.read_text() + " ")
    capsys.readouterr()
    assert release.main(arguments(runs, out, "--no-check")) == 0
    assert f"{min(finished)}: damaged, converted again" in capsys.readouterr().out
    assert files(out) == files(uninterrupted)


def test_new_checkpoints_are_added_to_a_release(
    tmp_path: Path, runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert release.main(arguments(runs[:1], tmp_path / "out", "--no-check")) == 0
    capsys.readouterr()
    assert release.main(arguments(runs[:2], tmp_path / "out", "--no-check")) == 0
    output = capsys.readouterr().out
    assert "step10: verified" in output
    assert "ext5: converted" in output
    main, newest = (load_file(tmp_path / "out" / n / "model.safetensors") for n in ("main", "revisions/ext5"))
    assert all(main[name].equal(newest[name]) for name in newest)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_several_workers_write_the_same_files(
    tmp_path: Path, runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert release.main(arguments(runs[:2], tmp_path / "one", "--no-check")) == 0
    assert release.main([*arguments(runs[:2], tmp_path / "two", "--no-check"), "--workers", "2"]) == 0
    assert files(tmp_path / "one") == files(tmp_path / "two")
    weights = runs[1] / "step_0000005" / "state" / "__0_0.distcp"
    weights.write_bytes(bytes(weights.stat().st_size))
    (tmp_path / "two" / "manifests" / "ext5.json").unlink()
    with pytest.raises(ConfigError, match=r"damaged, state/__0_0\.distcp"):
        release.main([*arguments(runs[:2], tmp_path / "two", "--no-check"), "--workers", "2"])


def test_raw_checkpoints_and_training_order_are_added(tmp_path: Path, runs: list[Path]) -> None:
    order = runs[1] / "training_order"
    order.mkdir()
    (order / "step_0000001.parquet").write_bytes(b"PAR1")
    more = ("--no-check", "--raw", "--license", "mit")
    for _ in range(2):
        assert release.main(arguments(runs[1:], tmp_path / "out", *more)) == 0
    for name, source in {"ext5": runs[1] / "step_0000005", "decay3": runs[2] / "step_0000003"}.items():
        assert files(tmp_path / "out" / "raw" / name) == files(source)
    listing = json.loads((tmp_path / "out" / "main" / "training_order.json").read_text())
    copied = tmp_path / "out" / "training_order" / "extend" / "step_0000001.parquet"
    assert listing["files"] == {"extend/step_0000001.parquet": {"bytes": 4, "sha256": file_sha256(copied)}}
    assert (tmp_path / "out" / "training_order" / "README.md").read_text().startswith("---\nlicense: mit\n---")


def test_dry_run_lists_everything_without_torch(tmp_path: Path, runs: list[Path]) -> None:
    blocked = BLOCKED.replace("runpy, sys\n", "runpy, sys\nsys.modules['torch'] = sys.modules['transformers'] = None\n")
    shown = subprocess.run(
        [
            *(sys.executable, "-c", blocked, "tools/release.py"),
            *arguments(runs, tmp_path / "out", "--dry-run", "--raw", "--push-to-hub", "me/it"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["step10", "step20", "ext5", "decay3"]
    assert all(line.endswith("to convert") for line in lines[1:5])
    assert [line.removeprefix("to the Hub: ") for line in lines if line.startswith("to the Hub")] == [
        *("me/it@step10", "me/it@step20", "me/it@ext5", "me/it@decay3", "me/it@main"),
        *(f"datasets/me/it-checkpoints@main:{name}/" for name in ("step10", "step20", "ext5", "decay3")),
    ]
    assert not (tmp_path / "out").exists()


def mark_foreign(out: Path) -> None:
    out.mkdir()
    (out / "mine.txt").write_text("mine")


WRONG: dict[str, tuple[Any, list[str], str]] = {
    "no such run": (lambda t: shutil.rmtree(t / "decay"), [], "there is no such folder"),
    "no checkpoint in it": (lambda t: shutil.rmtree(t / "decay" / "step_0000003"), [], "has no complete checkpoint"),
    "half-written": (lambda t: (t / "decay/step_0000003/complete.json").unlink(), [], "half-written: step_0000003"),
    "damaged": (
        lambda t: (t / "decay/step_0000003/state/.metadata").unlink(),
        [],
        "damaged, state/.metadata is missing",
    ),
    "two of one name": (lambda t: None, ["--load", "{t}/extend", "{t}/extend"], "is revision ext5, and so is"),
    "other objective": (lambda t: write_run(t / "clm", "clm"), ["--load", "{t}/clm", "{t}/extend"], "one objective"),
    "other phase": (lambda t: write_run(t / "odd", phase="warm"), ["--load", "{t}/odd"], "phase 'warm' is none of"),
    "another folder": (lambda t: mark_foreign(t / "out"), [], "exists and is not a release"),
    "repository": (lambda t: None, ["--push-to-hub", "noname"], "--push-to-hub noname: must be ORG/NAME"),
    "licence": (lambda t: None, ["--license", "My own"], "--license My own"),
    "order": (lambda t: None, ["--training-order", "{t}/extend"], "has no .parquet files"),
    "workers": (lambda t: None, ["--workers", "0"], "--workers"),
}


@pytest.mark.parametrize(("damage", "flags", "message"), WRONG.values(), ids=WRONG.keys())
def test_invalid_input_is_refused_before_writing(
    tmp_path: Path, runs: list[Path], damage: Any, flags: list[str], message: str
) -> None:
    damage(tmp_path)
    before = files(tmp_path)
    with pytest.raises(ConfigError) as refusal:
        release.main([*arguments(runs, tmp_path / "out"), *(flag.format(t=tmp_path) for flag in flags)])
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert files(tmp_path) == before


def test_full_disk_is_one_line_and_leaves_nothing_partial(tmp_path: Path, runs: list[Path]) -> None:
    out = tmp_path / "out"
    refused = run("tools/release.py", *arguments(runs[1:2], out, "--no-check"), largest_file=200_000)
    message = f"error: --save {out / 'revisions' / 'ext5'}: File too large\n"
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", message)
    assert list((out / "revisions").iterdir()) == []
    assert not (out / "main").exists()
    assert release.main(arguments(runs[1:2], out, "--no-check")) == 0, "the same command resumes"


def test_another_release_is_replaced_only_with_overwrite(tmp_path: Path, runs: list[Path]) -> None:
    out = tmp_path / "out"
    assert release.main(arguments(runs[1:2], out, "--no-check")) == 0
    with pytest.raises(ConfigError, match="contains a release made with dtype '', now 'bfloat16'; --overwrite"):
        release.main(arguments(runs[1:2], out, "--no-check", "--dtype", "bfloat16"))
    assert release.main(arguments(runs[1:2], out, "--no-check", "--dtype", "bfloat16", "--overwrite")) == 0
    assert json.loads((out / "main" / "config.json").read_text())["dtype"] == "bfloat16"
    shutil.rmtree(runs[1])
    write_run(tmp_path / "again", phase="extend", steps=(5, 6))
    runs[1] = tmp_path / "again"
    with pytest.raises(ConfigError, match="contains ext5 of a checkpoint other than"):
        release.main(arguments(runs[1:2], out, "--no-check", "--dtype", "bfloat16"))


def test_model_that_fails_its_check_exits_3_and_is_not_kept(
    tmp_path: Path, runs: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from megatron_ettin.convert.check import CheckResult
    from megatron_ettin.convert.export import CheckFailed
    from megatron_ettin.release import convert

    def fail(*arguments: Any, **named: Any) -> None:
        raise CheckFailed(CheckResult(0.5, 0.1, "layer 1"))

    monkeypatch.setattr(convert, "export_checkpoint", fail)
    assert release.main(arguments(runs[1:2], tmp_path / "out")) == 3
    error = capsys.readouterr().err
    assert error.startswith("error: revision ext5: the exported logits differ by 0.5")
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "main").exists()
    assert not (tmp_path / "out" / "manifests").exists()


def test_checksum_of_sharded_weights_is_that_of_their_list(tmp_path: Path, runs: list[Path]) -> None:
    from megatron_ettin.release.build import build_release
    from megatron_ettin.release.plan.request import request_release

    options = ExportOptions(shard_bytes=200_000)
    request = request_release(runs[1:2], tmp_path / "out", options)
    build_release(request, workers=1, check=False, overwrite=False, log=lambda text: None)
    manifest = read_manifest(tmp_path / "out" / "manifests" / "ext5.json")
    assert manifest is not None
    printed = subprocess.run(
        "sha256sum model-*.safetensors | sha256sum", shell=True, cwd=tmp_path / "out" / "revisions" / "ext5",
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert manifest.checksum == printed.stdout.split()[0]


def test_loss_is_the_one_last_logged_up_to_the_step(tmp_path: Path, runs: list[Path]) -> None:
    revisions = find_revisions(runs)
    assert [r.loss for r in revisions] == [4.9, 4.8, 4.95, None]
    assert replace(revisions[0], name="other").order == (0, 10)
    single = find_revisions([runs[0] / "step_0000010"])
    assert [(r.name, r.loss) for r in single] == [("step10", None)]
