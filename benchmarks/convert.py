"""Time and memory of converting each published size, beside ``cp`` of the same bytes.

For each size a checkpoint of random weights is imported, then exported without the check, each in a process of its own
whose peak memory is read from the system. Prints a table and writes benchmarks/results/convert_cpu.json.

    python benchmarks/convert.py [--sizes 17m 1b] [--folder DIR] [--with-check]
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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULT = ROOT / "benchmarks" / "results" / "convert_cpu"
ALLOWED_SHARE, ALLOWED_BYTES = 1.3, 600_000_000
SIZES = ("17m", "32m", "68m", "150m", "400m", "1b")


@dataclass(frozen=True)
class Measurement:
    """One size."""

    size: str
    weights_mb: float
    import_seconds: float
    import_peak_mb: float
    export_seconds: float
    export_peak_mb: float
    allowed_peak_mb: float
    export_mb_per_second: float
    """Weights written by the whole command, start of Python and torch included."""
    write_seconds: float
    """Of these, reading, converting and writing."""
    write_mb_per_second: float
    cp_mb_per_second: float
    """The same bytes, flushed to the disk as the export flushes them; the faster of one before it and one after."""
    checked_seconds: float | None = None
    """The export with its check."""


def measure(size: str, folder: Path, *, with_check: bool) -> Measurement:
    """Convert one size there and back below ``folder``."""
    from tests.convert.test_all_sizes import published, write_random_folder

    write_random_folder(folder / "hub", "mlm", published(size))
    weights = (folder / "hub" / "model.safetensors").stat().st_size
    import_seconds, import_peak, _ = run("convert_from_hf", folder / "hub", folder / "run")
    cp_before = copy(folder / "hub" / "model.safetensors", folder / "copy")
    shutil.rmtree(folder / "hub")
    export_seconds, export_peak, told = run("convert_to_hf", folder / "run", folder / "out", "--no-check")
    write_seconds = float(told.split()[-2])
    cp_seconds = min(cp_before, copy(folder / "out" / "model.safetensors", folder / "copy"))
    checked = run("convert_to_hf", folder / "run", folder / "checked")[0] if with_check else None
    return Measurement(
        size=size,
        weights_mb=weights / 1e6,
        import_seconds=import_seconds,
        import_peak_mb=import_peak / 1e6,
        export_seconds=export_seconds,
        export_peak_mb=export_peak / 1e6,
        allowed_peak_mb=(ALLOWED_SHARE * weights + ALLOWED_BYTES) / 1e6,
        export_mb_per_second=weights / 1e6 / export_seconds,
        write_seconds=write_seconds,
        write_mb_per_second=weights / 1e6 / write_seconds,
        cp_mb_per_second=weights / 1e6 / cp_seconds,
        checked_seconds=checked,
    )


def run(tool: str, load: Path, save: Path, *flags: str) -> tuple[float, int, str]:
    """Run a tool; return seconds, peak bytes and what it printed."""
    command = [sys.executable, f"tools/{tool}.py", "--load", str(load), "--save", str(save), *flags]
    begin = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE)
    assert process.stdout is not None
    told = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, told
    return time.monotonic() - begin, usage.ru_maxrss * 1024, told


def copy(source: Path, target: Path) -> float:
    """Return the seconds that ``cp`` and a flush to the disk take."""
    begin = time.monotonic()
    subprocess.run(["cp", source, target], check=True)
    subprocess.run(["sync", target], check=True)
    seconds = time.monotonic() - begin
    target.unlink()
    return seconds


def table(measurements: list[Measurement]) -> str:
    """Return the figures as Markdown."""
    head = (
        "size | weights MB | import s | import peak MB | export s | export peak MB | allowed MB | "
        "export MB/s | without start-up MB/s | cp MB/s | ratio to cp"
    )
    lines = [f"| {head} |", "|" + " --- |" * len(head.split("|"))]
    for m in measurements:
        figures = (
            f"{m.size} | {m.weights_mb:,.0f} | {m.import_seconds:.1f} | {m.import_peak_mb:,.0f} | "
            f"{m.export_seconds:.1f} | {m.export_peak_mb:,.0f} | {m.allowed_peak_mb:,.0f} | "
            f"{m.export_mb_per_second:,.0f} | {m.write_mb_per_second:,.0f} | {m.cp_mb_per_second:,.0f} | "
            f"{m.write_mb_per_second / m.cp_mb_per_second:.2f}"
        )
        lines.append(f"| {figures} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument(
        "--folder", type=Path, help="where to write gigabytes; default: the system's for temporary files"
    )
    parser.add_argument("--with-check", action="store_true", help="time the export with its check too")
    options = parser.parse_args()
    measurements = []
    load = os.getloadavg()[0]
    for size in options.sizes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            measurements.append(measure(size, Path(folder), with_check=options.with_check))
        print(table(measurements[-1:]).splitlines()[-1], flush=True)
    machine = f"{os.cpu_count()} cores, load average {load:.1f} at the start"
    today = datetime.date.today().isoformat()
    print(f"\n{table(measurements)}")
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    found = {"date": today, "machine": machine, "sizes": [asdict(m) for m in measurements]}
    RESULT.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    RESULT.with_suffix(".md").write_text(
        f"# Conversion\n\n{today}, {machine}, fp32, encoder, `python benchmarks/convert.py`\n\n{table(measurements)}\n",
        encoding="utf-8",
    )
    over = [m.size for m in measurements if max(m.export_peak_mb, m.import_peak_mb) > m.allowed_peak_mb]
    sys.exit(f"error: more memory than allowed: {', '.join(over)}" if over else 0)


if __name__ == "__main__":
    main()
