"""The report: for people, for programs, and in short for the top of a run's log."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from megatron_ettin.doctor.compute import compute_findings, look_at_compute
from megatron_ettin.doctor.finding import Finding
from megatron_ettin.doctor.host import disk_finding, host_findings, look_at_host, measure_disk


def diagnose(path: str = "") -> list[Finding]:
    """Look at this machine, and at how fast the folder ``path`` is, where one is given.

    Raises:
        ConfigError: the folder cannot be measured.
    """
    disk = [disk_finding(Path(path), measure_disk(Path(path)))] if path else []
    return [*compute_findings(look_at_compute()), *host_findings(look_at_host()), *disk]


def report_text(findings: Sequence[Finding]) -> str:
    """Return one finding a line, under each no what mends it."""
    width = max(len(finding.name) for finding in findings) + 2
    return "\n".join(line for finding in findings for line in _lines(finding, width))


def report_json(findings: Sequence[Finding]) -> str:
    """Return one line of JSON: name -> whether it is fine, what was found and what mends it."""
    return json.dumps({finding.name: asdict(finding) for finding in findings})


def machine_lines(*, on_gpu: bool) -> list[str]:
    """Return what the top of a run's log says: what the machine has, and on a GPU the names of what it has not."""
    return short_lines(diagnose(), with_lacks=on_gpu)


def short_lines(findings: Sequence[Finding], *, with_lacks: bool) -> list[str]:
    """Return the report in two lines at most."""
    lines = ["machine: " + ", ".join(f"{found.name} {found.told}".strip() for found in findings if found.fine)]
    lacks = ", ".join(finding.name for finding in findings if not finding.fine)
    if with_lacks and lacks:
        lines.append(f"machine lacks: {lacks} (why, and what mends it: python tools/doctor.py)")
    return lines


def _lines(finding: Finding, width: int) -> Iterator[str]:
    yield f"{finding.name:<{width}}{'yes' if finding.fine else 'no':<5}{finding.told}".rstrip()
    if finding.mend:
        yield f"{'':<{width}}{'':<5}-> {finding.mend}"
