"""Train the golden runs. ``python -m tests.golden.curves`` rewrites their losses after a change that is meant to alter
them; the commit must say so."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.helpers.corpora import babble, write_corpus, write_word_tokenizer
from tests.helpers.distributed import run_ranks
from tests.helpers.launches import launch
from tests.helpers.runs import tiny_run, with_overrides

STEPS = 50
OBJECTIVES = ("mlm", "clm")


def golden_file(objective: str) -> Path:
    """Return the file with the losses of an objective, one per step."""
    return Path(__file__).with_name(f"{objective}_losses.json")


def train_golden(objective: str, folder: Path) -> list[float]:
    """Train 50 steps through the complete trainer on two data-parallel ranks; return the loss of each step."""
    corpus = write_corpus(folder / "corpus", babble(300, 128, seed=3))
    tokenizer = write_word_tokenizer(folder / "tokenizer", [f"w{i}" for i in range(5, 128)])
    config = with_overrides(
        tiny_run(objective),
        data_path=corpus,
        tokenizer_model=str(tokenizer),
        save=str(folder / objective),
        global_batch_size=8,
        micro_batch_size=2,
        train_iters=STEPS,
        lr=1e-2,
        lr_warmup_iters=5,
        lr_wsd_decay_iters=20,
        attention_output_dropout=0.1,
        log_interval=1,
        eval_interval=0,
    )
    run_ranks(2, launch, config)
    lines = (folder / objective / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def main() -> None:
    """Write the golden files."""
    for objective in OBJECTIVES:
        with TemporaryDirectory() as folder:
            losses = train_golden(objective, Path(folder))
        golden_file(objective).write_text(json.dumps(losses, indent=0) + "\n")


if __name__ == "__main__":
    main()
