"""The scripts for GPUs and clusters, without either: plans, and two nodes on the loopback device."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from megatron_ettin.config.presets import SIZES
from tests.test_examples import ROOT, SMALL, free_port, material, run, stub

MICRO_BATCH_ROWS = {"17m": 144, "32m": 96, "68m": 96, "150m": 72, "400m": 48, "1b": 24}
"""Rows of a micro-batch that divide the 576 on each of 8 GPUs, at most those of the paper's trainer."""


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    """PREFIX, TOKENIZER and SAVE, with a torchrun on PATH that runs only the first rank."""
    stub(
        tmp_path / "bin" / "torchrun",
        'while [[ $1 != -m ]]; do shift; done\nRANK=0 WORLD_SIZE="$RANKS" exec python "$@"',
    )
    corpus, tokenizer = material(tmp_path)
    return [corpus, str(tokenizer), str(tmp_path / "run")]


def planned(places: Sequence[str], script: str, *arguments: str, **environment: str) -> dict[str, Any]:
    path = f"{Path(places[2]).parent / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = run("bash", f"examples/{script}", *arguments, *places, "--dry-run=json", PATH=path, **environment)
    assert done.returncode == 0, done.stderr
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def check_plan(plan: dict[str, Any], kind: str, size: str, gpus: int) -> None:
    config = plan["config"]
    assert plan["objective"] == {"encoder": "mlm", "decoder": "clm"}[kind]
    assert config["model"]["num_layers"] == {"17m": 7, "32m": 10, "68m": 19, "150m": 22, "400m": 28, "1b": 28}[size]
    assert config["training"]["bf16"]
    assert plan["layout"]["data_parallel_size"] == gpus
    for name in ("use_distributed_optimizer", "overlap_grad_reduce", "overlap_param_gather"):
        assert config["parallel"][name], name


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_every_size_can_be_planned_on_a_node(kind: str, size: str, places: list[str]) -> None:
    plan = planned(places, f"pretrain_{kind}.sh", size, RANKS="8")
    check_plan(plan, kind, size, 8)
    assert plan["config"]["training"]["micro_batch_size"] == MICRO_BATCH_ROWS[size]
    for phase, seed in (("extend", 21), ("decay", 21)):
        plan = planned(places, f"pretrain_{kind}.sh", size, RANKS="8", PHASE=phase)
        assert (plan["phase"], plan["config"]["data"]["seq_length"]) == (phase, 7999)
        assert plan["config"]["training"]["seed"] == seed


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("recipe", ["delayed", "tensorwise", "blockwise", "mxfp8"])
def test_every_size_can_be_planned_in_fp8(size: str, recipe: str, places: list[str]) -> None:
    plan = planned(places, "pretrain_fp8.sh", "decoder", size, RANKS="8", FP8_RECIPE=recipe)
    check_plan(plan, "decoder", size, 8)
    backend = plan["config"]["backend"]
    assert (backend["transformer_impl"], backend["fp8_format"]) == ("transformer_engine", "hybrid")
    assert (backend["fp8_recipe"], backend["first_last_layers_bf16"]) == (recipe, recipe != "delayed")


@pytest.mark.parametrize(("gpus", "rows"), [("1", 72), ("64", 72), ("256", 18), ("512", 9)])
def test_micro_batch_divides_the_rows_of_a_gpu(gpus: str, rows: int, places: list[str]) -> None:
    plan = planned(places, "pretrain_encoder.sh", "150m", RANKS=gpus)
    assert plan["config"]["training"]["micro_batch_size"] == rows
    assert plan["layout"]["micro_batches_per_step"] * rows * int(gpus) == 4608


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["pretrain_encoder.sh", "2b", "p", "t", "s"], "error: encoder 2b: must be encoder or decoder and a size"),
        (["pretrain_fp8.sh", "pair", "17m", "p", "t", "s"], "error: pair 17m: must be encoder or decoder"),
        (["pretrain_decoder.sh", "17m"], "Pretrain a decoder"),
        (["pretrain_fp8.sh"], "Pretrain with the layers' matrix products"),
        (["slurm_phases.sh", "config"], "Submit the three phases"),
    ],
)
def test_scripts_print_their_usage(arguments: list[str], complaint: str) -> None:
    done = run("bash", f"examples/{arguments[0]}", *arguments[1:])
    assert done.returncode == 2
    assert done.stderr.startswith(complaint)


def test_unknown_phase_is_refused() -> None:
    done = run("bash", "examples/pretrain_encoder.sh", "17m", "p", "t", "s", PHASE="decayed")
    assert (done.returncode, done.stderr) == (2, "error: PHASE=decayed: must be pretrain, extend or decay\n")


def test_slurm_phases_depend_on_each_other(tmp_path: Path) -> None:
    stub(
        tmp_path / "bin" / "sbatch",
        f'echo "$*" >>{tmp_path}/submitted; echo "$((100 + $(wc -l <{tmp_path}/submitted)));cluster"',
    )
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = run(
        "bash", "examples/slurm_phases.sh", "c.yaml", "data/{phase}_text_document", "tok", "runs/e",
        "--log-interval", "5", PATH=path, NODES="4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "101\n102\n103\n"
    submitted = [line.split() for line in (tmp_path / "submitted").read_text().splitlines()]
    common = ["--parsable", "--nodes", "4", "--job-name"]
    script, tail = "examples/slurm_pretrain.sbatch", ["--log-interval", "5"]
    assert submitted[0] == [
        *common, "ettin_pretrain", script, "c.yaml", "data/pretrain_text_document", "tok", "runs/e/pretrain",
        "--phase", "pretrain", *tail,
    ]  # fmt: skip
    for job, before, phase in ((101, "pretrain", "extend"), (102, "extend", "decay")):
        assert submitted[job - 100] == [
            *common, f"ettin_{phase}", f"--dependency=afterok:{job}", script, "c.yaml", f"data/{phase}_text_document",
            "tok", f"runs/e/{phase}", "--phase", phase, "--pretrained-checkpoint", f"runs/e/{before}", *tail,
        ]  # fmt: skip


@pytest.mark.parametrize(("reason", "code"), [("SIGTERM", 1), ("exit-after-minutes", 1), ("SIGUSR1", 0), ("", 0)])
def test_slurm_job_that_stopped_early_holds_back_the_next(tmp_path: Path, reason: str, code: int) -> None:
    stub(tmp_path / "bin" / "scontrol", f"[[ $1 == requeue ]] && touch {tmp_path}/requeued || echo node7")
    stub(tmp_path / "bin" / "srun", "exit 0")
    save = tmp_path / "run"
    save.mkdir()
    if reason:
        (save / "stop.json").write_text(json.dumps({"reason": reason, "step": 5}))
    done = run(
        "bash", "examples/slurm_pretrain.sbatch", "c.yaml", "data", "tok", save,
        PATH=f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        SLURM_JOB_NODELIST="node7", SLURM_NNODES="1", SLURM_JOB_ID="12", SLURM_SUBMIT_DIR=str(ROOT),
    )  # fmt: skip
    assert done.returncode == code
    assert (tmp_path / "requeued").exists() == (reason == "SIGUSR1")


def pretrain(*flags: str | Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "megatron_ettin.pretrain", *map(str, flags), *SMALL.split())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_command_line_starts_a_phase_and_resumes_it(tmp_path: Path) -> None:
    corpus, tokenizer = material(tmp_path)
    files = ["--objective", "mlm", "--data-path", corpus, "--tokenizer-model", str(tokenizer), "--exit-interval", "2"]
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    assert pretrain(*files, "--save", first).returncode == 0
    chained = [*files, "--phase", "extend", "--save", second, "--load", second, "--pretrained-checkpoint", first]
    started = pretrain(*chained)
    assert started.returncode == 0, started.stderr
    assert f"has no complete checkpoint yet: starts from {first}" in started.stdout + started.stderr
    resumed = pretrain(*chained)
    assert resumed.returncode == 0, resumed.stderr
    run_json = json.loads((tmp_path / "second" / "step_0000004" / "run.json").read_text())
    assert [(phase["phase"], phase["steps"]) for phase in run_json["lineage"]][-2:] == [
        ("pretrain", 2),
        ("extend", 4),
    ]


def test_pretrained_checkpoint_needs_load(tmp_path: Path) -> None:
    done = pretrain("--objective", "mlm", "--save", tmp_path / "run", "--pretrained-checkpoint", tmp_path, "--dry-run")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --pretrained-checkpoint {tmp_path}: needs --load with the folder of --save")


class Node:
    """One machine of a launch: the script, torchrun and the ranks, in their own session."""

    def __init__(self, name: str, folder: Path, arguments: Sequence[str], port: int) -> None:
        self.log = folder / f"{name}.log"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "NNODES": "2", "RANKS": "2", "MASTER_ADDR": "localhost"}
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                ["bash", "examples/pretrain_multinode.sh", *arguments],
                cwd=ROOT,
                env={**environment, "MASTER_PORT": str(port), "RUN_ID": "test"},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def signal(self, number: int, *, all_processes: bool) -> None:
        """Signal only the script, or all processes, as when a machine fails."""
        (os.killpg if all_processes else os.kill)(self.process.pid, number)


def wait_until_listening(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nothing listens at {port}")


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_training_resumes_after_a_machine_fails_and_returns(tmp_path: Path) -> None:
    corpus, tokenizer = material(tmp_path)
    save, port = tmp_path / "run", free_port()
    arguments = ["examples/configs/nano_encoder.yaml", corpus, str(tokenizer), str(save), *SMALL.split()]
    arguments += ["--save-interval", "5", "--global-batch-size", "4", "--timeout-seconds", "60"]
    host = Node("host", tmp_path, arguments, port)
    nodes = [host]
    try:
        wait_until_listening(port)
        nodes.append(Node("guest", tmp_path, arguments, port))
        wait_for_checkpoint(save, 5, nodes)
        nodes[1].signal(signal.SIGKILL, all_processes=True)
        nodes[1].process.wait(30)
        steps_before = whole_steps(save)
        nodes[1] = Node("guest_again", tmp_path, arguments, port)
        wait_for_checkpoint(save, max(steps_before) + 5, nodes)
        for node in nodes:
            node.signal(signal.SIGTERM, all_processes=False)
        codes = [node.process.wait(120) for node in nodes]
    finally:
        for node in nodes:
            if node.process.poll() is None:
                node.signal(signal.SIGKILL, all_processes=True)
    logs = "".join(node.log.read_text() for node in nodes)
    assert codes == [0, 0], logs
    assert json.loads((save / "stop.json").read_text())["reason"] == "SIGTERM"
    steps = [json.loads(line)["step"] for line in (save / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
    assert steps == sorted(set(steps)), "no step is logged twice"
    assert steps[0] == 1
    assert steps[-1] >= max(steps_before) + 5


def whole_steps(save: Path) -> list[int]:
    return sorted(int(marker.parent.name[5:]) for marker in save.glob("step_*/complete.json"))


def wait_for_checkpoint(save: Path, step: int, nodes: Sequence[Node]) -> None:
    deadline = time.monotonic() + 180
    while max(whole_steps(save), default=0) < step:
        logs = [node.log.read_text() for node in nodes]
        assert all(node.process.poll() is None for node in nodes), logs
        assert time.monotonic() < deadline, logs
        time.sleep(0.2)
