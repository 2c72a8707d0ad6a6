"""Tokens that one core packs and masks in a second, compared with transformers' DataCollatorForLanguageModeling.

Both get the same chunks of text in the same rows. Ours goes the way of training: row numbers, chunks of the mapped
corpus, special tokens, masks, a PackedBatch. The collator gets each chunk's ids with its special tokens, as lists and
as arrays, and pads and masks them; reading and packing are not counted against it. Every figure is the median of some
rounds in turns, in one process with one thread. The text is the Python standard library's.

    python benchmarks/loader.py --output benchmarks/results/loader.md
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.corpus.indexed_writer import IndexedWriter
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.corpus.train_tokenizer import save_tokenizer, train_tokenizer
from megatron_ettin.data.preprocess.starter_text import choose_documents, standard_library
from megatron_ettin.objectives.objective import build_objective
from megatron_ettin.train.datasets import build_training_data

SEQ_LENGTH = 1024
MICRO_BATCH = 32
VOCABULARY = 4096
FASTER_THAN_COLLATOR = 10.0
CLM_TOKENS_PER_SECOND = 5e6


def write_corpus(folder: Path, largest_bytes: int) -> RunConfig:
    """Write a tokenizer and a corpus of the standard library's text."""
    texts = [d.text for d in choose_documents(standard_library(), seed=1, largest_bytes=largest_bytes)]
    save_tokenizer(train_tokenizer(texts, VOCABULARY), folder / "tokenizer")
    with IndexedWriter(folder / "corpus", np.uint16) as writer:
        for ids in TokenizerFiles.load(folder / "tokenizer").encode_batch(texts):
            writer.add_document(ids)
    places = {"data_path": str(folder / "corpus"), "tokenizer_model": str(folder / "tokenizer"), "split": "1,0,0"}
    return RunConfig().with_values(
        {**places, "seq_length": SEQ_LENGTH, "micro_batch_size": MICRO_BATCH, "global_batch_size": MICRO_BATCH}
    )


class Feed:
    """Our batches of one objective."""

    def __init__(self, config: RunConfig, steps: int, objective: str, packing: str, masking: str) -> None:
        self.config = config.with_values({"objective": objective, "packing": packing, "masking": masking})
        self.tokenizer = TokenizerFiles.load(config.data.tokenizer_model)
        self.objective = build_objective(self.config, self.tokenizer)
        data = build_training_data(self.config, self.tokenizer, self.objective)
        self.rows = data.rows
        # Computed once: a plan keeps only the latest steps, and every round requests all of them.
        self.parts = [data.plan.micro_batches(step, 0, 1)[0] for step in range(steps)]

    def step(self, step: int) -> int:
        """Build the micro-batch of a step and return its real tokens."""
        part = self.parts[step]
        return self.objective.train_batch(self.rows.rows(part.start, part.stop), part).real_tokens

    def examples(self, step: int, *, as_lists: bool) -> list[Any]:
        """Return the chunks of a step with their special tokens, for the collator."""
        part = self.parts[step]
        cls_id, sep_id = self.tokenizer.cls_id, self.tokenizer.sep_id
        chunks = [chunk for row in self.rows.rows(part.start, part.stop) for chunk in row]
        arrays = [np.concatenate(([cls_id], chunk.tokens, [sep_id])).astype(np.int64) for chunk in chunks]
        return [{"input_ids": array.tolist()} for array in arrays] if as_lists else arrays


def rate(work: Callable[[int], int], steps: range) -> float:
    """Return the tokens a second of processor time that ``work`` does."""
    begun = time.process_time()
    tokens = sum(work(step) for step in steps)
    return tokens / (time.process_time() - begun)


def collator_work(feed: Feed, steps: range, *, mlm: bool, as_lists: bool) -> Callable[[int], int]:
    """Return the collator's share of the same steps, with its examples made beforehand."""
    front = PreTrainedTokenizerFast(
        tokenizer_file=str(feed.tokenizer.path), cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
        mask_token="[MASK]", unk_token="[UNK]",
    )  # fmt: skip
    collate = DataCollatorForLanguageModeling(front, mlm=mlm, mlm_probability=0.3 if mlm else None)
    examples = {step: feed.examples(step, as_lists=as_lists) for step in steps}

    def work(step: int) -> int:
        batch = collate(examples[step])
        attended = batch.get("attention_mask")
        return int(attended.sum()) if attended is not None else sum(len(each) for each in examples[step])

    return work


def measure(config: RunConfig, steps: int, rounds: int) -> list[str]:
    """Take turns, and return the lines of a table."""
    lines = []
    cases = [("mlm", "best-fit", "token"), ("mlm", "none", "token"), ("mlm", "best-fit", "whole-word"),
             ("mlm", "best-fit", "span"), ("clm", "best-fit", "token"), ("clm", "none", "token")]  # fmt: skip
    for objective, packing, masking in cases:
        feed = Feed(config, steps, objective, packing, masking)
        here = range(steps)
        works = {
            "ours": feed.step,
            "lists": collator_work(feed, here, mlm=objective == "mlm", as_lists=True),
            "arrays": collator_work(feed, here, mlm=objective == "mlm", as_lists=False),
        }
        found: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(rounds + 1):
            for name, work in works.items():
                # The collator is slow: a tenth of the steps is enough to measure it.
                figure = rate(work, here if name == "ours" else range(max(1, steps // 10)))
                if turn:  # the first one warms up
                    found[name].append(figure)
        ours, lists, arrays = (statistics.median(found[name]) for name in works)
        best = max(lists, arrays)
        lines.append(
            f"| {objective} | {packing} | {masking if objective == 'mlm' else ''} | {ours / 1e6:.2f} | "
            f"{lists / 1e6:.3f} | {arrays / 1e6:.3f} | {ours / best:.1f} |"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure and print, and write the table where --output is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=16_000_000, help="text to make rows from")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    head = [
        "# Packing and masking on one core",
        "",
        f"Rows of {SEQ_LENGTH}, {MICRO_BATCH} a micro-batch, millions of real tokens a second of one core; median of "
        f"{options.rounds} rounds in turns; transformers {transformers.__version__}'s DataCollatorForLanguageModeling "
        "on the same pieces, given as lists and as arrays, reading and packing not counted. The last column is ours "
        "against the faster of the two.",
        "",
        "| objective | packing | masking | ours | collator, lists | collator, arrays | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        lines = measure(write_corpus(Path(folder), options.bytes), options.steps, options.rounds)
    wanted = f"Wanted: {FASTER_THAN_COLLATOR:.0f} times the collator, and {CLM_TOKENS_PER_SECOND / 1e6:.0f} M for clm."
    text = "\n".join([*head, *lines, "", wanted]) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
