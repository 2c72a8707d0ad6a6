"""Measure time and memory of converting each published size, next to ``cp`` of the same bytes.

For each size a checkpoint of random weights is imported, then exported without the check, each in its own process,
whose peak memory the system reports. Exports and copies alternate and medians are reported, because both write
gigabytes into the page cache, at a speed that depends on other processes. Prints a table and writes
benchmarks/results/convert_cpu.json.

    python benchmarks/convert.py [--sizes 17m 1b] [--rounds 5] [--folder DIR] [--with-check]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from common import require

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULT = ROOT / "benchmarks" / "results" / "convert_cpu"
ALLOWED_SHARE, ALLOWED_BYTES = 1.3, 600_000_000
EXPECTED = """
Expectations of an export, and results:

- The rate of `cp` and `sync`, apart from start-up: where the checkpoint's chunks are complete rows and the type is
  unchanged, bytes are copied from file to file in blocks, as `cp` does, while another core computes the checksums of
  the checkpoint. The result is the last column.
- A peak memory that does not grow with the model, since no tensor is loaded. The result is that of Python with torch,
  at any size.
"""
SIZES = ("17m", "32m", "68m", "150m", "400m", "1b")


@dataclass(frozen=True)
class Measurement:
    """One size. Seconds and rates are medians of the rounds."""

    size: str
    weights_mb: float
    import_seconds: float
    import_peak_mb: float
    export_seconds: float
    """Of the complete command, including the start of Python and torch."""
    write_seconds: float
    """Of these: checksums, reading, converting, writing and flushing."""
    export_peak_mb: float
    allowed_peak_mb: float
    write_mb_per_second: float
    cp_mb_per_second: float
    """``cp`` alone, which leaves the bytes in the page cache."""
    cp_sync_mb_per_second: float
    """``cp`` and a flush to disk, which the export includes too."""
    ratio_to_cp_sync: float
    """Median of the ratios of each round, whose two rates are measured under the same load."""
    ratios: tuple[float, ...]
    """Of all rounds."""
    checked_seconds: float | None = None
    """The export with its check."""


def measure(size: str, folder: Path, *, rounds: int, with_check: bool) -> Measurement:
    """Convert one size there and back below ``folder``."""
    from tests.convert.test_all_sizes import published, write_random_folder

    write_random_folder(folder / "hub", "mlm", published(size))
    weights = (folder / "hub" / "model.safetensors").stat().st_size
    import_seconds, import_peak, _ = run("convert_from_hf", folder / "hub", folder / "run")
    shutil.rmtree(folder / "hub")
    exports, written, peaks, copied, flushed = [], [], [], [], []
    for _ in range(rounds):
        seconds, peak, output = run("convert_to_hf", folder / "run", folder / "out", "--no-check")
        exports.append(seconds)
        written.append(float(output.split()[-2]))
        peaks.append(peak)
        without, with_flush = copy(folder / "out" / "model.safetensors", folder / "copy")
        copied.append(without)
        flushed.append(with_flush)
        shutil.rmtree(folder / "out")
    ratios = tuple(copy_seconds / seconds for copy_seconds, seconds in zip(flushed, written, strict=True))
    checked = run("convert_to_hf", folder / "run", folder / "checked")[0] if with_check else None
    return Measurement(
        size=size,
        weights_mb=weights / 1e6,
        import_seconds=import_seconds,
        import_peak_mb=import_peak / 1e6,
        export_seconds=median(exports),
        write_seconds=median(written),
        export_peak_mb=max(peaks) / 1e6,
        allowed_peak_mb=(ALLOWED_SHARE * weights + ALLOWED_BYTES) / 1e6,
        write_mb_per_second=weights / 1e6 / median(written),
        cp_mb_per_second=weights / 1e6 / median(copied),
        cp_sync_mb_per_second=weights / 1e6 / median(flushed),
        ratio_to_cp_sync=median(ratios),
        ratios=ratios,
        checked_seconds=checked,
    )


LAUNCH = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""
"""Runs a command and prints its peak memory. Until a process has started its program, its parent's memory counts as its
own, so the parent must be small."""


def run(tool: str, load: Path, save: Path, *flags: str) -> tuple[float, int, str]:
    """Run a tool; return seconds, peak bytes and the last line of its output."""
    command = [sys.executable, f"tools/{tool}.py", "--load", str(load), "--save", str(save), *flags]
    begin = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCH, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    *_, output, peak = process.stdout.splitlines()
    return time.monotonic() - begin, int(peak), output


def copy(source: Path, target: Path) -> tuple[float, float]:
    """Return the seconds of ``cp``, without and with a flush to disk."""
    begin = time.monotonic()
    subprocess.run(["cp", source, target], check=True)
    copied = time.monotonic() - begin
    subprocess.run(["sync", target], check=True)
    flushed = time.monotonic() - begin
    target.unlink()
    return copied, flushed


def table(measurements: list[Measurement]) -> str:
    """Return the results as a Markdown table."""
    head = (
        "size | weights MB | import s | import peak MB | export s | without start-up s | export peak MB | allowed MB | "
        "export MB/s | cp MB/s | cp + sync MB/s | export to cp + sync"
    )
    lines = [f"| {head} |", "|" + " --- |" * len(head.split("|"))]
    for m in measurements:
        figures = (
            f"{m.size} | {m.weights_mb:,.0f} | {m.import_seconds:.1f} | {m.import_peak_mb:,.0f} | "
            f"{m.export_seconds:.1f} | {m.write_seconds:.1f} | {m.export_peak_mb:,.0f} | {m.allowed_peak_mb:,.0f} | "
            f"{m.write_mb_per_second:,.0f} | {m.cp_mb_per_second:,.0f} | {m.cp_sync_mb_per_second:,.0f} | "
            f"{m.ratio_to_cp_sync:.2f}"
        )
        lines.append(f"| {figures} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--folder", type=Path, help="where to write gigabytes; default: the system's temporary folder")
    parser.add_argument("--with-check", action="store_true", help="time the export with its check too")
    parser.add_argument("--rounds", type=int, default=5, help="exports and copies of each size")
    options = parser.parse_args()
    require("pytest", extra="dev")  # by the tests that write random weights
    measurements = []
    load = os.getloadavg()[0]
    for size in options.sizes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            measurements.append(measure(size, Path(folder), rounds=options.rounds, with_check=options.with_check))
        print(table(measurements[-1:]).splitlines()[-1], flush=True)
    machine = f"{os.cpu_count()} cores, load average {load:.1f} at the start"
    today = datetime.date.today().isoformat()
    print(f"\n{table(measurements)}")
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    results = {"date": today, "machine": machine, "sizes": [asdict(m) for m in measurements]}
    RESULT.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    head = f"# Conversion\n\n{today}, {machine}, fp32, encoder, `python benchmarks/convert.py`"
    RESULT.with_suffix(".md").write_text(f"{head}\n\n{table(measurements)}\n{EXPECTED}", encoding="utf-8")
    over = [m.size for m in measurements if max(m.export_peak_mb, m.import_peak_mb) > m.allowed_peak_mb]
    sys.exit(f"error: more memory than allowed: {', '.join(over)}" if over else 0)


if __name__ == "__main__":
    main()
