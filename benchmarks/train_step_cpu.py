"""Training speed on CPU cores, ettin-17m in fp32: this trainer beside transformers' Trainer on the same chunks of text.

    python benchmarks/train_step_cpu.py --data PREFIX --tokenizer DIR [--objectives mlm clm] [--threads 2] [--steps N]
        [--rounds N] [--save]

Ours is a whole run of the product, one process, rows packed best-fit. Theirs is a whole run of the Trainer with its own
collator on ModernBertForMaskedLM or ModernBertDecoderForCausalLM, sdpa, batches padded to their longest chunk, with
sparse_prediction off (its default) and on. Every run has a process of its own; rounds take turns, and the ratio told is
the median of the rounds' ratios. Tokens are real ones: no padding, no filling.

Then the shares of a step of ours are told, by hooks around its parts, beside the machine's rate of a matrix product.
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

RESULTS = Path(__file__).parent / "results" / "train_step_cpu.md"
OURS, DEFAULT, SPARSE = "ours", "transformers", "transformers, sparse_prediction"
RUNS = {"mlm": (OURS, DEFAULT, SPARSE), "clm": (OURS, DEFAULT)}
WANTED = {("mlm", DEFAULT): 3.0, ("mlm", SPARSE): 1.5, ("clm", DEFAULT): 1.3}
"""How many times the tokens per second of each are wanted."""


def main() -> None:
    """Measure and print; with --save write the page of results."""
    arguments = parse_arguments()
    sections = [objective_section(arguments, objective) for objective in arguments.objectives]
    page = "\n".join([heading(arguments), *sections])
    print(page)
    if arguments.save:
        RESULTS.write_text(page, encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="PREFIX", help="corpus of tools/preprocess_data.py")
    parser.add_argument("--tokenizer", required=True, metavar="DIR", help="the tokenizer it was made with")
    parser.add_argument("--objectives", nargs="+", default=["mlm", "clm"], choices=["mlm", "clm"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--rows", type=int, default=8, help="rows of 1,024 in a step of ours; pieces in a batch of theirs"
    )
    parser.add_argument("--save", action="store_true")
    return parser.parse_args()


def objective_section(arguments: argparse.Namespace, objective: str) -> str:
    """Run all runs of an objective in turns and return their table."""
    speeds: dict[str, list[float]] = {name: [] for name in RUNS[objective]}
    for _ in range(arguments.rounds):
        for name in RUNS[objective]:
            speeds[name].append(worker(arguments, "speed", objective, name)["tokens_per_second"])
    lines = [f"## {objective}", "", "| run | tokens/s | ours / this | wanted |", "|---|---:|---:|---:|"]
    for name, rates in speeds.items():
        ratio = statistics.median(mine / other for mine, other in zip(speeds[OURS], rates, strict=True))
        wanted = f"{WANTED[objective, name]:.1f}" if name != OURS else ""
        lines.append(f"| {name} | {statistics.median(rates):,.0f} | {ratio:.2f} | {wanted} |")
    told = worker(arguments, "shares", objective, OURS)
    lines += ["", "| part of a step | share |", "|---|---:|"]
    lines += [f"| {part} | {100 * share:.1f}% |" for part, share in told["shares"].items()]
    lines += [
        "",
        f"The step does {told['flops_per_second'] / 1e9:.0f} GFLOP/s of the model's work; a product of two 2048 x 2048 "
        f"matrices runs at {told['peak'] / 1e9:.0f} GFLOP/s here, so the step is at "
        f"{100 * told['flops_per_second'] / told['peak']:.0f}% of it.",
        "",
    ]
    return "\n".join(lines)


def worker(arguments: argparse.Namespace, task: str, objective: str, name: str) -> dict[str, float | dict[str, float]]:
    """Run one measurement in a process of its own and return what it found."""
    with tempfile.TemporaryDirectory() as folder:
        request = vars(arguments) | {"task": task, "objective": objective, "name": name, "folder": folder}
        environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1"}
        script = Path(__file__).with_name("train_step_cpu_worker.py")
        done = subprocess.run(
            [sys.executable, str(script), json.dumps(request)], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{objective} {name} failed:\n{done.stderr[-2000:]}")
        found: dict[str, float | dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
        return found


def heading(arguments: argparse.Namespace) -> str:
    """Return what was measured, and where."""
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
