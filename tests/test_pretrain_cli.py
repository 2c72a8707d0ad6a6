"""The command line: exit codes, output streams, and modules that must not be loaded."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "megatron", "transformers"}
MODULE = "megatron_ettin.pretrain"
REPORT_MODULES = f"""
import json, runpy, sys
code = 0
try:
    runpy.run_module({MODULE!r}, run_name="__main__", alter_sys=True)
except SystemExit as end:
    code = end.code or 0
sys.stderr.write("\\n" + json.dumps(sorted({{name.split(".")[0] for name in sys.modules}})))
sys.exit(code)
"""


def pretrain(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-m", MODULE, *arguments], environment)


def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**clean, **environment})


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the single line that a refusal prints."""
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_help_takes_less_than_a_second_of_cpu_time() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = pretrain("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert "--tensor-model-parallel-size" in done.stdout
    # CPU time, as the wall time includes other tests.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--hiden-size", "100"], 2),
        (["--objective", "mlm", "--tensor-model-parallel-size", "3", "--dry-run"], 2),
        (["--objective", "mlm", "--dry-run"], 0),
        (["--objective", "clm", "--preset", "ettin-150m", "--dry-run=json"], 0),
    ],
)
def test_parsing_refusal_and_dry_run_load_no_heavy_module(arguments: list[str], code: int) -> None:
    done = run([sys.executable, "-c", REPORT_MODULES, *arguments], {})
    assert done.returncode == code, done.stderr
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert "megatron_ettin" in loaded
    assert loaded & HEAVY == set()


def test_dry_run_json_is_the_only_thing_on_stdout() -> None:
    done = pretrain("--objective", "mlm", "--preset", "ettin-17m", "--train-iters", "10", "--dry-run=json")
    assert (done.returncode, done.stderr) == (0, "")
    [line] = done.stdout.splitlines()
    plan = json.loads(line)
    assert (plan["parameters"], plan["steps"], plan["tokens"]) == (16_913_600, 10, 10 * 2_835_302)
    assert plan["layout"]["world_size"] == 1


def test_dry_run_plans_for_the_world_in_the_environment() -> None:
    flags = ["--objective", "clm", "--preset", "ettin-17m", "--tensor-model-parallel-size", "2", "--dry-run=json"]
    plan = json.loads(pretrain(*flags, WORLD_SIZE="8", RANK="0").stdout)
    assert plan["layout"]["data_parallel_size"] == 4
    assert pretrain(*flags, WORLD_SIZE="8", RANK="3").stdout == ""


def test_dry_run_table() -> None:
    done = pretrain("--objective", "mlm", "--preset", "nano", "--vocab-size", "4096", "--dry-run")
    assert done.returncode == 0
    assert "2,082,688" in done.stdout
    assert "memory per rank" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--hiden-size 100", "--hiden-size: unknown flag; did you mean --hidden-size?"),
        ("--objective mlm --hidden-size 100 --num-attention-heads 3", "--hidden-size 100: must be a multiple of --num"),
        ("--objective mlm", "--data-path is missing"),
        ("--config /no/such/file.yaml", "--config /no/such/file.yaml: No such file"),
        ("--objective mlm --load /no/such/folder --eval-only", "--load /no/such/folder: there is no such folder"),
        ("--objective mlm --context-parallel-size 2", "context parallelism is not supported"),
    ],
)
def test_refusal_is_one_line_and_exit_code_2(arguments: str, words: str) -> None:
    assert words in error_line(pretrain(*arguments.split()))


def test_only_rank_0_reports_and_all_ranks_exit_with_2() -> None:
    flags = ["--objective", "mlm", "--hidden-size", "100", "--num-attention-heads", "3"]
    assert "--hidden-size 100" in error_line(pretrain(*flags, RANK="0", WORLD_SIZE="2"))
    other = pretrain(*flags, RANK="1", WORLD_SIZE="2")
    assert (other.returncode, other.stdout, other.stderr) == (2, "", "")


def test_refusal_creates_no_file(tmp_path: Path) -> None:
    save = tmp_path / "runs" / "a"
    flags = ["--objective", "mlm", "--train-iters", "1", "--save", str(save), "--tokenizer-model", "t"]
    assert "--tokenizer-model t: " in error_line(pretrain(*flags, "--data-path", str(tmp_path / "none")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_under_torchrun_each_rank_exits_with_2() -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", MODULE]
    done = run([*launcher, "--objective", "mlm", "--hiden-size", "100"], {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 1  # torchrun's own, whatever its workers return
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == ["error: --hiden-size: unknown flag; did you mean --hidden-size?"]
    assert "exitcode  : 2" in done.stderr
    assert 'pretrain.py", line' not in done.stderr  # no traceback of ours


def test_failed_run_is_reported_in_one_line_and_exits_1() -> None:
    source = """
import sys
from megatron_ettin import pretrain
from megatron_ettin.errors import RunFailure
def fail(*arguments):
    raise RunFailure("step 7: steps skipped in a row: 3, allowed are --max-skipped-steps 2")
pretrain.start = fail
sys.exit(pretrain.main([]))
"""
    done = run([sys.executable, "-c", source], {})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: step 7: steps skipped in a row: 3, allowed are --max-skipped-steps 2\n"
