"""The report of the doctor: as text, as JSON, and as two lines at the top of a run's log."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_ettin.doctor.compute import compute_findings, inspect_compute
from megatron_ettin.doctor.finding import Finding
from megatron_ettin.doctor.host import disk_finding, host_findings, inspect_host, measure_disk


def diagnose(path: str = "") -> list[Finding]:
    """Inspect this machine and, if ``path`` is given, measure the disk of that folder.

    Raises:
        ConfigError: the folder cannot be measured.
    """
    disk = [disk_finding(Path(path), measure_disk(Path(path)))] if path else []
    return [*compute_findings(inspect_compute()), *host_findings(inspect_host()), *disk]


def report_text(findings: Sequence[Finding]) -> str:
    """Return one line per finding, followed by its fix if it is not fine."""
    width = max(len(finding.name) for finding in findings) + 2
    return "\n".join(line for finding in findings for line in _lines(finding, width))


def report_json(findings: Sequence[Finding]) -> str:
    """Return one line of JSON: name -> the finding."""
    return json.dumps({finding.name: _as_json(finding) for finding in findings})


def machine_lines(*, on_gpu: bool) -> list[str]:
    """Return the lines for a run's log: what the machine has and, on a GPU, what it lacks."""
    return short_lines(diagnose(), with_lacks=on_gpu)


def short_lines(findings: Sequence[Finding], *, with_lacks: bool) -> list[str]:
    """Return the report in at most two lines."""
    has = ", ".join(f"{finding.name} {finding.detail}".strip() for finding in findings if finding.fine)
    lines = [f"machine: {has}"]
    lacks = ", ".join(finding.name for finding in findings if not finding.fine)
    if with_lacks and lacks:
        lines.append(f"machine lacks: {lacks} (reasons and fixes: python tools/doctor.py)")
    return lines


def _lines(finding: Finding, width: int) -> Iterator[str]:
    yield f"{finding.name:<{width}}{'yes' if finding.fine else 'no':<5}{finding.detail}".rstrip()
    if finding.fix:
        yield f"{'':<{width}}{'':<5}-> {finding.fix}"


def _as_json(finding: Finding) -> dict[str, str | bool]:
    return {"name": finding.name, "fine": finding.fine, "told": finding.detail, "mend": finding.fix}
