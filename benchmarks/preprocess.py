"""Compare preprocessing with other ways to the same .bin/.idx, as complete processes on one corpus and tokenizer.

    ours        tools/preprocess_data.py
    tokenizers  encode_batch in a process pool of the same number of workers, ids written as by ours
    datatrove   MegatronDocumentTokenizer, same number of workers; needs an interpreter that has it (--datatrove PYTHON)
    gigatoken   encode_files of the library alone, nothing written: the upper bound

The corpus is real text of this machine, at least --megabytes of it, or a given file. The slow ways get a sample of it,
since their rate does not depend on the length. The ways run in turn, --repeats times each, and the best time of each
counts, because other processes can only slow a run down. Ids are compared on the complete sample.

    python benchmarks/preprocess.py --tokenizer FOLDER [--corpus FILE] [--datatrove PYTHON] [--workers 2]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common import fail

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "preprocess_cpu.md"
GOALS = {"tokenizers": 12.0, "datatrove": 10.0, "gigatoken": 0.7}

POOL = """
import json, sys, os
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, {root!r})
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
import numpy as np
from tokenizers import Tokenizer
from megatron_ettin.data.corpus.indexed_writer import IndexedWriter
tokenizer = Tokenizer.from_file({tokenizer!r})
def encode(lines):
    encodings = tokenizer.encode_batch([json.loads(line)["text"] for line in lines], add_special_tokens=False)
    return [np.array(encoding.ids, np.uint16) for encoding in encodings]
if __name__ == "__main__":
    with open({corpus!r}, encoding="utf-8") as file, ProcessPoolExecutor({workers}) as pool:
        blocks = iter(lambda: list(islice(file, 128)), [])
        with IndexedWriter({output!r}, np.uint16) as writer:
            for documents in pool.map(encode, blocks):
                for document in documents:
                    writer.add_document(document)
"""
DATATROVE = """
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import MegatronDocumentTokenizer
if __name__ == "__main__":
    LocalPipelineExecutor(
        pipeline=[
            JsonlReader({folder!r}, text_key="text", shuffle_files=False),
            MegatronDocumentTokenizer({output!r}, tokenizer_name_or_path={tokenizer!r}, eos_token=None),
        ],
        tasks={workers}, workers={workers}, logging_dir={output!r} + "/logs", skip_completed=False,
    ).run()
"""
GIGATOKEN = """
import gigatoken
tokenizer = gigatoken.Tokenizer({tokenizer!r})
tokenizer.encode_files(gigatoken.JsonlFileSource([{corpus!r}]))
"""


@dataclass
class Way:
    """One way to preprocess."""

    name: str
    command: list[str]
    text_bytes: int
    seconds: list[float] = field(default_factory=list)
    peak_mb: float = 0.0

    @property
    def rate(self) -> float:
        """Megabytes of text per second, including process start."""
        return self.text_bytes / min(self.seconds) / 1e6

    def run(self) -> None:
        """Run once; the memory is that of its largest process."""
        begin = time.monotonic()
        with subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            stderr = process.stderr.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        self.seconds.append(time.monotonic() - begin)
        if process.returncode:
            raise SystemExit(f"{self.name} failed:\n{stderr.decode()[-2000:]}")
        self.peak_mb = max(self.peak_mb, usage.ru_maxrss / 1e3)


def real_texts() -> Iterator[str]:
    """Yield documentation, sources and other text of this machine, each file once."""
    roots = [
        "/usr/share/doc",
        "/usr/share",
        "/usr/lib/python3",
        "/usr/include",
        *sys.path[1:],
        str(Path(sys.base_prefix)),
    ]
    seen: set[bytes] = set()
    for root in roots:
        for path in sorted(Path(root).rglob("*")):
            if (
                path.suffix not in (".py", ".pyi", ".txt", ".md", ".rst", ".html", ".h", ".c", ".json", "")
                or path.is_symlink()
            ):
                continue
            try:
                content = path.read_bytes() if path.is_file() and path.stat().st_size < 2_000_000 else b""
                text = content.decode()
            except (OSError, UnicodeDecodeError):
                continue
            digest = hashlib.sha256(content).digest()
            if text.strip() and "\0" not in text and digest not in seen:
                seen.add(digest)
                yield text


def write_corpus(path: Path, num_bytes: int) -> None:
    """Gather text up to ``num_bytes``; warn if the machine has less."""
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for text in real_texts():
            written += file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            if written >= num_bytes:
                return
    print(f"only {written / 1e6:.0f} MB of text found", file=sys.stderr)


def write_sample(corpus: Path, path: Path, num_bytes: int) -> None:
    """Write every N-th document, so that the sample is like the corpus."""
    step = max(1, corpus.stat().st_size // num_bytes)
    with corpus.open("rb") as source, path.open("wb") as target:
        for number, line in enumerate(source):
            if number % step == 0:
                target.write(line)


def build_ways(options: argparse.Namespace, corpus: Path, sample: Path, folder: Path) -> list[Way]:
    """Return the ways to compare."""
    tokenizer = str(Path(options.tokenizer) / "tokenizer.json")
    facts = {"root": str(ROOT), "tokenizer": tokenizer, "workers": options.workers}
    tool = [sys.executable, str(ROOT / "tools" / "preprocess_data.py"), "--tokenizer-model", options.tokenizer]
    tool += ["--workers", str(options.workers)]
    size, part = corpus.stat().st_size, sample.stat().st_size
    ways = [
        Way("ours", [*tool, "--input", str(corpus), "--output-prefix", str(folder / "ours")], size),
        Way("gigatoken", python(GIGATOKEN.format(**facts, corpus=str(corpus))), size),
        Way("tokenizers", python(POOL.format(**facts, corpus=str(sample), output=str(folder / "pool"))), part),
    ]
    if options.datatrove:
        halves = folder / "halves"  # datatrove distributes files
        split_lines(sample, halves, options.workers)
        program = DATATROVE.format(**facts, folder=str(halves), output=str(folder / "datatrove"))
        script = folder / "with_datatrove.py"
        script.write_text(program)
        ways.append(Way("datatrove", [options.datatrove, str(script)], part))
    return ways


def can_import_datatrove(interpreter: str) -> bool:
    """Whether an interpreter exists and has datatrove installed."""
    try:
        return subprocess.run([interpreter, "-c", "import datatrove"], capture_output=True).returncode == 0
    except OSError:
        return False


def python(program: str) -> list[str]:
    """Return the command that runs a program."""
    return [sys.executable, "-c", program]


def split_lines(source: Path, folder: Path, count: int) -> None:
    """Distribute the lines over ``count`` files."""
    folder.mkdir()
    files = [(folder / f"{number:02d}.jsonl").open("wb") for number in range(count)]
    with source.open("rb") as lines:
        for number, line in enumerate(lines):
            files[number % count].write(line)
    for file in files:
        file.close()


def same_ids(options: argparse.Namespace, sample: Path, folder: Path) -> bool:
    """Whether ours and the process pool write the same bytes for the sample."""
    tool = [sys.executable, str(ROOT / "tools" / "preprocess_data.py"), "--tokenizer-model", options.tokenizer]
    subprocess.run(
        [*tool, "--input", str(sample), "--output-prefix", str(folder / "check")], check=True, capture_output=True
    )
    pairs = [(folder / f"check_text_document{suffix}", folder / f"pool{suffix}") for suffix in (".bin", ".idx")]
    return all(ours.read_bytes() == theirs.read_bytes() for ours, theirs in pairs)


def report(ways: Sequence[Way], options: argparse.Namespace, same: bool) -> str:
    """Return the table."""
    ours = ways[0]
    lines = [
        f"{ours.text_bytes / 1e6:.0f} MB of JSON lines, {options.workers} workers, {os.cpu_count()} cores "
        f"({platform.machine()}), best of {options.repeats} complete processes each.",
        "",
        "| way | MB | seconds | MB/s | ours against it | goal | peak MB of a process |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for way in ways:
        ratio = "" if way is ours else f"{ours.rate / way.rate:.2f} x"
        goal = f">= {GOALS[way.name]:g} x" if way.name in GOALS else ""
        lines.append(
            f"| {way.name} | {way.text_bytes / 1e6:.0f} | {min(way.seconds):.2f} | {way.rate:.1f} | {ratio} | {goal} "
            f"| {way.peak_mb:.0f} |"
        )
    spread = ", ".join(f"{way.name} {'/'.join(f'{second:.2f}' for second in way.seconds)} s" for way in ways)
    verdict = "are equal" if same else "DIFFER"
    return "\n".join(
        [*lines, "", f"All times: {spread}.", "", f"The sample's files of ours and of the pool {verdict}."]
    )


def main() -> int:
    """Compare, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="folder with tokenizer.json")
    parser.add_argument("--corpus", type=Path, help="jsonl; by default text of this machine")
    parser.add_argument("--megabytes", type=int, default=320)
    parser.add_argument("--stretch-megabytes", type=int, default=40, help="size of the sample for the slow ways")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--datatrove", metavar="PYTHON", help="an interpreter that has datatrove")
    parser.add_argument(
        "--output", type=Path, help="write the table there, such as benchmarks/results/preprocess_cpu.md"
    )
    options = parser.parse_args()
    if options.datatrove and not can_import_datatrove(options.datatrove):
        fail(f"--datatrove {options.datatrove}: is not a Python interpreter that can import datatrove")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = options.corpus or folder / "corpus.jsonl"
        if options.corpus is None:
            write_corpus(corpus, options.megabytes * 1_000_000)
        sample = folder / "sample.jsonl"
        write_sample(corpus, sample, options.stretch_megabytes * 1_000_000)
        ways = build_ways(options, corpus, sample, folder)
        for _ in range(options.repeats):
            for way in ways:
                way.run()
        same = same_ids(options, sample, folder)
        table = report(ways, options, same)
    print(table)
    if options.output:
        options.output.write_text(f"# Preprocessing\n\n{table}\n", encoding="utf-8")
    missed = [w.name for w in ways[1:] if ways[0].rate / w.rate < GOALS[w.name]]
    return 1 if missed or not same else 0


if __name__ == "__main__":
    sys.exit(main())
