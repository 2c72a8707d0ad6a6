"""The configs and scripts in examples/, run as far as possible without hours or a cluster."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from megatron_ettin.config.command_line import parse_command
from megatron_ettin.evaluation.suites.bias.winogender import read_schemas
from tests.helpers.corpora import babble, write_corpus, write_word_tokenizer

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("encoder", "decoder")
CONFIGS = sorted((ROOT / "examples" / "configs").glob("*.yaml"))
SCRIPTS = sorted(path for path in (ROOT / "examples").iterdir() if path.suffix in (".sh", ".sbatch"))


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, "PATH": path, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_examples_exist() -> None:
    assert {"quickstart.yaml", "nano_encoder.yaml", "nano_decoder.yaml"} <= set(names(CONFIGS))
    assert {"quickstart.sh", "pretrain_one_node.sh", "pretrain_multinode.sh", "slurm_pretrain.sbatch"} <= set(
        names(SCRIPTS)
    )


@pytest.mark.parametrize("objective", ["mlm", "clm"])
@pytest.mark.parametrize("config", CONFIGS, ids=names(CONFIGS))
def test_config_can_be_planned(config: Path, objective: str) -> None:
    done = run(
        sys.executable, "-m", "megatron_ettin.pretrain", "--config", config, "--objective", objective, "--dry-run=json"
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["objective"] == objective
    assert plan["steps"] > 0
    assert plan["parameters"] > 0


@pytest.mark.parametrize("config", CONFIGS, ids=names(CONFIGS))
def test_config_sets_only_what_differs_from_the_defaults(config: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load(config.read_text())
    redundant = []
    for key in settings:
        shorter = tmp_path / "shorter.yaml"
        shorter.write_text(yaml.safe_dump({name: value for name, value in settings.items() if name != key}))
        if parse_command(["--config", str(shorter)]).config == parse_command(["--config", str(config)]).config:
            redundant.append(key)
    assert redundant == []


def test_pair_configs_differ_only_in_the_objective() -> None:
    encoder, decoder = (yaml.safe_load((ROOT / f"examples/configs/nano_{kind}.yaml").read_text()) for kind in KINDS)
    assert (encoder.pop("objective"), decoder.pop("objective")) == ("mlm", "clm")
    assert encoder == decoder


@pytest.mark.parametrize("script", SCRIPTS, ids=names(SCRIPTS))
def test_script_is_valid_bash(script: Path) -> None:
    done = run("bash", "-n", script)
    assert done.returncode == 0, done.stderr
    assert "set -euo pipefail" in script.read_text().splitlines()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--corpus", "no/such/file"], "--corpus no/such/file: there is no such file"),
        (["--corpus"], "--corpus: a value is missing"),
        (["--speed"], "--speed: unknown flag"),
        (["--output", "docs"], "--output docs: exists and was not made by this script"),
    ],
)
def test_quickstart_refuses_invalid_flags(flags: list[str], complaint: str) -> None:
    done = run("bash", "examples/quickstart.sh", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {complaint}")
    assert done.stdout == ""


@pytest.mark.parametrize("script", ["pretrain_one_node.sh", "pretrain_multinode.sh"])
def test_script_prints_its_usage(script: str) -> None:
    done = run("bash", f"examples/{script}")
    assert done.returncode == 2
    assert f"examples/{script}" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("script", ["pretrain_one_node.sh", "pretrain_multinode.sh"])
def test_script_plans_on_two_ranks(script: str, tmp_path: Path) -> None:
    corpus, tokenizer = material(tmp_path)
    done = run(
        "bash", f"examples/{script}", "examples/configs/nano_encoder.yaml", corpus, tokenizer, tmp_path / "run",
        "--dry-run=json", RANKS="2", NNODES="1", MASTER_ADDR="localhost", MASTER_PORT=str(free_port()),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    layout = json.loads(done.stdout)["layout"]
    assert (layout["world_size"], layout["data_parallel_size"]) == (2, 2)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_slurm_script_passes_its_nodes_to_torchrun(tmp_path: Path) -> None:
    corpus, tokenizer = material(tmp_path)
    # Stand-ins for Slurm's commands in a job of one node.
    stub(tmp_path / "bin" / "scontrol", '[[ "$*" == "show hostnames node[7]" ]] && echo localhost')
    stub(tmp_path / "bin" / "srun", 'shift && exec "$@"')
    path = f"{tmp_path / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = run(
        "bash", "examples/slurm_pretrain.sbatch", "examples/configs/nano_decoder.yaml", corpus, tokenizer,
        tmp_path / "run", "--dry-run=json", PATH=path, SLURM_JOB_NODELIST="node[7]", SLURM_NNODES="1",
        SLURM_GPUS_ON_NODE="2", SLURM_JOB_ID="12", SLURM_SUBMIT_DIR=str(ROOT), MASTER_PORT=str(free_port()),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["layout"]["world_size"] == 2


def stub(path: Path, body: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


def material(folder: Path) -> tuple[str, Path]:
    """Write a small corpus and its tokenizer; return the prefix of one and the folder of the other."""
    corpus = write_corpus(folder / "corpus", [document.tolist() for document in babble(200, 64)])
    return corpus, write_word_tokenizer(folder / "tokenizer", [f"word{i}" for i in range(59)])


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--corpus", "no/such/file"], "--corpus no/such/file: there is no such file"),
        (["--tokens", "many"], "--tokens many: must be a whole number of 1000 or more"),
        (["--tokens"], "--tokens: a value is missing"),
        (["--speed"], "--speed: unknown flag"),
        (["--output", "docs"], "--output docs: exists and was not made by this script"),
    ],
)
def test_nano_refuses_invalid_flags(flags: list[str], complaint: str) -> None:
    done = run("bash", "examples/ettin_nano.sh", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {complaint}")
    assert done.stdout == ""


def test_nano_resumes_with_the_same_settings_only(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".ettin_nano").write_text("--tokens 2000 --corpus  --text  -- \n")
    done = run("bash", "examples/ettin_nano.sh", "--output", tmp_path / "run", "--resume", "--tokens", "3000")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}/run was made with other settings")
    assert names(list((tmp_path / "run").iterdir())) == [".ettin_nano"]


def test_nano_shares_only_the_text_of_the_same_corpus(tmp_path: Path) -> None:
    (tmp_path / "text" / "done").mkdir(parents=True)
    (tmp_path / "text" / "done" / "text").write_text("of another file\n")
    done = run("bash", "examples/ettin_nano.sh", "--output", tmp_path / "run", "--text", tmp_path / "text")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --text {tmp_path}/text: was made from another --corpus")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--corpus", "no/such/file"], "--corpus no/such/file: there is no such file"),
        (["--data", "no/such/folder"], "--data no/such/folder: there is no such folder"),
        (["--data", "docs"], "--data docs: has none of the folders classification retrieval generative bias"),
        (["--tokens", "many"], "--tokens many: must be a whole number of 1000 or more"),
        (["--sizes", "2m,17m"], "--sizes 2m,17m: must be of 0.7m and 2m"),
        (["--sizes"], "--sizes: a value is missing"),
        (["--speed"], "--speed: unknown flag"),
        (["--output", "docs"], "--output docs: exists and was not made by this script"),
        (["--output", "no/such", "--", "--limit", "9"], "--limit: unknown flag"),
        (["--output", "no/such", "--", "--seeds", "1", "x"], "--seeds: x is not a non-negative integer"),
    ],
)
def test_encoder_vs_decoder_refuses_invalid_flags(flags: list[str], complaint: str) -> None:
    done = run("bash", "examples/encoder_vs_decoder.sh", *flags)
    assert not (ROOT / "no" / "such").exists()
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {complaint}")
    assert done.stdout == ""


def test_own_bias_sentences_are_balanced() -> None:
    schemas = read_schemas(ROOT / "examples" / "eval_data" / "bias")
    assert len(schemas) == 20 * 2 * 2  # occupations, two participants for each, and the referent
    assert Counter(schema.gotcha for schema in schemas) == {"male": 40, "female": 40}
    pronouns = [{"he", "his"}, {"she", "her"}, {"they", "their"}]
    for schema in schemas:
        words = [set(schema.variants[gender].rstrip(".").split()) for gender in ("male", "female", "neutral")]
        shared = set.intersection(*words)
        for own, pronoun in zip(words, pronouns, strict=True):
            assert own - shared - {"was", "were"} <= pronoun
            assert own & pronoun


SMALL = (
    "--num-layers 3 --hidden-size 32 --ffn-hidden-size 48 --num-attention-heads 2 --seq-length 64 --device cpu "
    "--micro-batch-size 1 --global-batch-size 2 --train-iters 100000 --lr-decay-iters 100000 --eval-interval 0 "
    "--log-interval 1"
)


@pytest.mark.slow
def test_slurm_job_saves_and_requeues_itself_when_warned(tmp_path: Path) -> None:
    """Slurm's signal goes to every process of the job's step: the shell, torchrun and the ranks."""
    corpus, tokenizer = material(tmp_path)
    stub(tmp_path / "bin" / "scontrol", f'[[ $1 == requeue ]] && echo "$2" >{tmp_path}/requeued || echo localhost')
    stub(tmp_path / "bin" / "srun", f'shift && echo $$ >{tmp_path}/task && exec "$@"')
    path = f"{tmp_path / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    slurm = {"SLURM_JOB_NODELIST": "node7", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_ID": "12"}
    environment = {**os.environ, "PATH": path, "SLURM_SUBMIT_DIR": str(ROOT), "MASTER_PORT": str(free_port()), **slurm}
    script = ["bash", "examples/slurm_pretrain.sbatch", "examples/configs/nano_encoder.yaml", corpus, str(tokenizer)]
    save, log = tmp_path / "run", tmp_path / "log"
    with (
        log.open("w") as file,
        subprocess.Popen(
            [*script, str(save), *SMALL.split()], cwd=ROOT, env=environment, stdout=file, stderr=file
        ) as job,
    ):
        try:
            wait_for_text(log, "step 5/", job)
            for pid in descendants(int((tmp_path / "task").read_text())):
                os.kill(pid, signal.SIGUSR1)
            assert job.wait(60) == 0, log.read_text()
        finally:
            job.kill()
    assert json.loads((save / "stop.json").read_text())["reason"] == "SIGUSR1"
    assert (tmp_path / "requeued").read_text() == "12\n"


def wait_for_text(log: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 100
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    """Return a process and all its descendants, oldest first."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(descendant for child in children for descendant in descendants(int(child)))]
