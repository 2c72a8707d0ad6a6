"""From an index on disk to the first row: the first and the next start of a run on 10^6, 10^7 and 10^8 documents.

Each start is a separate process that does what training does before its first step: check the corpora, build or map
the indices, and read the first rows. The .bin is sparse, so that 10^11 tokens need no space; document lengths are
log-normal with a mean of 1000 tokens. Memory is the peak of the process, including mapped files.

    python benchmarks/dataset_start.py --output benchmarks/results/dataset_start.md
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from megatron_ettin.data.corpus.indexed import IndexHeader

MEAN_TOKENS = 1000
SEQ_LENGTH = 1024
_AT_ONCE = 1 << 22


def write_index(prefix: Path, num_documents: int) -> int:
    """Write a pair of ``num_documents`` documents whose .bin is sparse; return its tokens."""
    header = IndexHeader(np.dtype(np.uint16), num_documents, num_documents + 1)
    rng = np.random.default_rng(0)
    with Path(f"{prefix}.idx").open("wb") as file:
        file.write(header.to_bytes())
        total = 0
        for start in range(0, num_documents, _AT_ONCE):
            count = min(_AT_ONCE, num_documents - start)
            lengths = np.maximum(1, rng.lognormal(np.log(MEAN_TOKENS) - 0.5, 1.0, count)).astype(np.int32)
            file.seek(header.lengths_at + 4 * start)
            file.write(lengths.tobytes())
            ends = total + np.cumsum(lengths, dtype=np.int64)
            file.seek(header.pointers_at + 8 * start)
            file.write((2 * (ends - lengths)).tobytes())
            file.seek(header.marks_at + 8 * start)
            file.write(np.arange(start, start + count, dtype=np.int64).tobytes())
            total = int(ends[-1])
        file.write(np.array([num_documents], np.int64).tobytes())
    with Path(f"{prefix}.bin").open("wb") as file:
        file.truncate(2 * total)
    return total


def start(prefix: str) -> dict[str, float]:
    """Do what a run does with its corpus before the first step; return seconds and memory."""
    from megatron_ettin.config.run import RunConfig
    from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
    from megatron_ettin.train.datasets import build_training_rows, open_corpus
    from megatron_ettin.train.preflight.inputs import check_corpus

    folder = Path(prefix).parent / "tokenizer"
    values = {"data_path": prefix, "tokenizer_model": str(folder), "seq_length": SEQ_LENGTH, "objective": "mlm"}
    config = RunConfig().with_values(values)
    tokenizer = TokenizerFiles.load(folder)
    started = time.perf_counter()
    check_corpus(config, tokenizer)
    checked = time.perf_counter()
    rows = build_training_rows(config, open_corpus(config), tokenizer)
    rows.rows(0, 1024)
    ended = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": ended - started,
        "of it checks": checked - started,
        "peak_bytes": peak,
        "rows": rows.num_rows,
        "fill_rate": rows.fill_rate,
    }


def write_tokenizer(folder: Path) -> None:
    """Write a minimal tokenizer that a run accepts."""
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    added = [{"id": number, "content": token, "special": True} for number, token in enumerate(special)]
    vocabulary = {token: number for number, token in enumerate(special)}
    folder.mkdir()
    content = {"added_tokens": added, "model": {"type": "WordLevel", "vocab": vocabulary}}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def measure(folder: Path, num_documents: int) -> str:
    """Start twice on a new corpus and return a line of the table."""
    prefix = folder / f"documents_{num_documents}"
    tokens = write_index(prefix, num_documents)
    starts = []
    for _ in range(2):
        os.sync()  # a start should not wait for earlier writes
        command = [sys.executable, __file__, "--start", str(prefix)]
        starts.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    kept = sum(path.stat().st_size for path in Path(f"{prefix}.cache").rglob("*"))
    shutil.rmtree(f"{prefix}.cache", ignore_errors=True)
    for suffix in (".idx", ".bin"):
        Path(f"{prefix}{suffix}").unlink()
    first, later = starts
    assert first["rows"] == later["rows"]
    return (
        f"| {num_documents:,} | {tokens:,} | {first['rows']:,} | {first['fill_rate']:.2%} | {first['seconds']:.1f} | "
        f"{first['peak_bytes'] / 2**30:.2f} | {later['seconds']:.2f} | {later['peak_bytes'] / 2**30:.2f} | "
        f"{kept / 2**30:.2f} |"
    )


def main() -> None:
    """Measure, print the table, and write it to --output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[10**6, 10**7, 10**8])
    parser.add_argument("--folder", help="where to write the corpora (default: a temporary folder)")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--start", metavar="PREFIX", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start:
        print(json.dumps(start(options.start)))
        return
    lines = [
        "# Start of a run on a large corpus",
        "",
        f"Rows of {SEQ_LENGTH}, --packing best-fit, `.bin` sparse; each start is a separate process: it checks "
        "the corpus, builds or maps the indices, and reads 1024 rows. GiB are its peak, including mapped files.",
        "",
        "| documents | tokens | rows | filled | first start, s | GiB | next start, s | GiB | kept on disk, GiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        write_tokenizer(Path(folder) / "tokenizer")
        for count in options.documents:
            lines.append(measure(Path(folder), count))
            print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
