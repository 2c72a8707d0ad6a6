"""Training speed on CPU cores, ettin-17m in fp32: this trainer against transformers' Trainer on the same chunks.

    python benchmarks/train_step_cpu.py --data PREFIX --tokenizer DIR [--objectives mlm clm] [--threads 2] [--steps N]
        [--rounds N] [--save]

Ours is a complete run in one process, with rows packed best-fit. Theirs is a complete run of the Trainer with its own
collator on ModernBertForMaskedLM or ModernBertDecoderForCausalLM, sdpa, batches padded to their longest chunk, with
sparse_prediction off (its default) and on. Every run has its own process; the runs alternate, and the reported ratio is
the median over the rounds. Tokens are real ones, without padding. The Trainer needs the extra [clients].

The share of each part of our step is measured by hooks, and compared with the machine's rate of a matrix product.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import publish, require

RESULTS = Path(__file__).parent / "results" / "train_step_cpu.md"
OURS, DEFAULT, SPARSE = "ours", "transformers", "transformers, sparse_prediction"
RUNS = {"mlm": (OURS, DEFAULT, SPARSE), "clm": (OURS, DEFAULT)}
GOALS = {("mlm", DEFAULT): 3.0, ("mlm", SPARSE): 1.5, ("clm", DEFAULT): 1.3}
"""Goals for the ratio of our tokens per second to those of each run."""


def main() -> None:
    """Measure, print, and save with --save."""
    arguments = parse_arguments()
    require("accelerate", extra="clients")  # by transformers' Trainer
    sections = [objective_section(arguments, objective) for objective in arguments.objectives]
    publish("\n".join([heading(arguments), *sections]), RESULTS, save=arguments.save)


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="PREFIX", help="corpus of tools/preprocess_data.py")
    parser.add_argument("--tokenizer", required=True, metavar="DIR", help="its tokenizer")
    parser.add_argument("--objectives", nargs="+", default=["mlm", "clm"], choices=["mlm", "clm"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=8, help="rows of 1,024 in our steps, and chunks in their batches")
    parser.add_argument("--save", action="store_true")
    return parser.parse_args()


def objective_section(arguments: argparse.Namespace, objective: str) -> str:
    """Run all runs of an objective, alternating, and return their table."""
    speeds: dict[str, list[float]] = {name: [] for name in RUNS[objective]}
    for _ in range(arguments.rounds):
        for name in RUNS[objective]:
            speeds[name].append(worker(arguments, "speed", objective, name)["tokens_per_second"])
    lines = [f"## {objective}", "", "| run | tokens/s | ours / this | goal |", "|---|---:|---:|---:|"]
    for name, rates in speeds.items():
        ratio = statistics.median(mine / other for mine, other in zip(speeds[OURS], rates, strict=True))
        goal = f"{GOALS[objective, name]:.1f}" if name != OURS else ""
        lines.append(f"| {name} | {statistics.median(rates):,.0f} | {ratio:.2f} | {goal} |")
    step = worker(arguments, "shares", objective, OURS)
    rate, peak = step["flops_per_second"], step["peak"]
    lines += ["", "| part of a step | share |", "|---|---:|"]
    lines += [f"| {part} | {100 * share:.1f}% |" for part, share in step["shares"].items()]
    lines += [
        "",
        f"The step computes {rate / 1e9:.0f} GFLOP/s of the model's work, {100 * rate / peak:.0f}% of the "
        f"{peak / 1e9:.0f} GFLOP/s of a product of two 2048 x 2048 matrices on this machine.",
        "",
    ]
    return "\n".join(lines)


def worker(arguments: argparse.Namespace, task: str, objective: str, name: str) -> dict[str, float | dict[str, float]]:
    """Run one measurement in its own process and return its result."""
    with tempfile.TemporaryDirectory() as folder:
        request = vars(arguments) | {"task": task, "objective": objective, "name": name, "folder": folder}
        environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1"}
        script = Path(__file__).with_name("train_step_cpu_worker.py")
        done = subprocess.run(
            [sys.executable, str(script), json.dumps(request)], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{objective} {name} failed:\n{done.stderr[-2000:]}")
        result: dict[str, float | dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
        return result


def heading(arguments: argparse.Namespace) -> str:
    """Return the conditions of the measurement."""
    from importlib.metadata import version

    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "megatron-core"))
    return "\n".join(
        [
            "# Training speed on a CPU, ettin-17m",
            "",
            f"fp32, {arguments.threads} threads, {arguments.rows} rows a step, {arguments.steps} steps, medians of "
            f"{arguments.rounds} rounds; {versions}, {platform.machine()}. Made by "
            "`python benchmarks/train_step_cpu.py --save`.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
