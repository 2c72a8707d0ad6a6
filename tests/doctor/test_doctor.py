"""Findings on given machines, and on this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ettin.config.backend import SUPPORTED_CORE
from megatron_ettin.doctor.compute import Compute, Gpu, compute_findings
from megatron_ettin.doctor.finding import Finding
from megatron_ettin.doctor.host import DiskSpeed, Host, Link, disk_finding, host_findings, measure_disk
from megatron_ettin.doctor.report import report_json, report_text, short_lines
from megatron_ettin.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
HOPPER = Gpu("NVIDIA H100 80GB HBM3", 80 << 30, (9, 0))
AMPERE = Gpu("NVIDIA A100-SXM4-80GB", 80 << 30, (8, 0))
ADA = Gpu("NVIDIA L40S", 48 << 30, (8, 9))
BLACKWELL = Gpu("NVIDIA B200", 180 << 30, (10, 0))
NODE = Compute(
    torch="2.10.0",
    cuda="13.0",
    gpus=(HOPPER,) * 8,
    driver="580.95.05",
    nccl="2.28.9",
    core=SUPPORTED_CORE,
    engine="2.10.0",
    engine_obstacle="",
    apex=True,
    flash_attn="2.8.3",
    has_windowed_varlen=True,
    has_flex=True,
    can_compile=True,
)
LAPTOP = replace(NODE, cuda="", gpus=(), driver="", nccl="", engine="", apex=False, flash_attn="", can_compile=False)
HOST = Host(32, 256 << 30, 64 << 30, (Link("eth0", 25_000), Link("eth1", 0)), ("mlx5_0",))


def findings_on(machine: Compute) -> dict[str, Finding]:
    return {finding.name: finding for finding in compute_findings(machine)}


def test_hopper_node_lacks_only_the_recipe_of_blackwell() -> None:
    findings = findings_on(NODE)
    assert [name for name, finding in findings.items() if not finding.fine] == ["FP8 mxfp8"]
    assert "Blackwell" in findings["FP8 mxfp8"].detail
    assert findings["CUDA"].detail == "13.0, 8 x NVIDIA H100 80GB HBM3 (80 GiB, compute capability 9.0)"


@pytest.mark.parametrize(
    ("gpu", "recipes"),
    [
        (AMPERE, set()),
        (ADA, {"delayed", "tensorwise"}),
        (HOPPER, {"delayed", "tensorwise", "blockwise"}),
        (BLACKWELL, {"delayed", "tensorwise", "mxfp8"}),
    ],
    ids=["Ampere", "Ada", "Hopper", "Blackwell"],
)
def test_fp8_recipes_of_a_gpu(gpu: Gpu, recipes: set[str]) -> None:
    findings = findings_on(replace(NODE, gpus=(gpu,)))
    fine = {name.removeprefix("FP8 ") for name, finding in findings.items() if name.startswith("FP8") and finding.fine}
    assert fine == recipes


def test_fp8_recipe_needs_all_gpus_of_a_node() -> None:
    assert not findings_on(replace(NODE, gpus=(HOPPER, AMPERE)))["FP8 tensorwise"].fine


@pytest.mark.parametrize(
    ("change", "name", "reason", "fix"),
    [
        ({"torch": ""}, "torch", "is not installed", "make install"),
        ({"core": "0.15.0"}, "megatron-core", "found 0.15.0", "make install"),
        ({"core": ""}, "megatron-core", "found none", "make install"),
        ({"cuda": ""}, "CUDA", "built without it", "pip install --force-reinstall torch"),
        ({"gpus": ()}, "CUDA", "a driver but no device", "CUDA_VISIBLE_DEVICES"),
        ({"gpus": (), "driver": ""}, "NVIDIA driver", "is not loaded", "--gpus all"),
        ({"engine": ""}, "Transformer Engine", "is not installed", ".[te]"),
        ({"engine_obstacle": "cannot be imported: libcudnn"}, "Transformer Engine", "libcudnn", ".[te]"),
        ({"engine": ""}, "FP8 delayed", "needs Transformer Engine", ".[te]"),
        ({"apex": False}, "apex", "not required", "docker build"),
        ({"has_windowed_varlen": False}, "varlen attention", "a window", "--upgrade torch"),
        ({"has_flex": False}, "FlexAttention", "not in this torch", "--upgrade torch"),
        ({"flash_attn": ""}, "flash-attn", "is not installed", "pip install"),
        ({"can_compile": False}, "torch.compile", "C compiler", "gcc"),
    ],
)  # fmt: skip
def test_missing_component_has_a_reason_and_a_fix(change: dict[str, object], name: str, reason: str, fix: str) -> None:
    finding = findings_on(replace(NODE, **change))[name]  # type: ignore[arg-type]
    assert not finding.fine
    assert reason in finding.detail
    assert fix in finding.fix


def test_pinned_core_is_the_supported_one() -> None:
    assert f"megatron-core=={SUPPORTED_CORE}\n" in (ROOT / "constraints.txt").read_text()


def test_findings_of_a_host() -> None:
    rich = {finding.name: finding for finding in host_findings(HOST)}
    assert all(finding.fine for finding in rich.values())
    assert rich["network"].detail == "eth0 (25 Gbit/s), eth1"
    poor = {finding.name: finding for finding in host_findings(replace(HOST, shared_bytes=64 << 20, links=(), rdma=()))}
    assert [name for name, finding in poor.items() if not finding.fine] == ["/dev/shm", "network", "RDMA"]
    assert "--ipc host" in poor["/dev/shm"].fix


def test_disk_is_measured_and_left_unchanged(tmp_path: Path) -> None:
    speed = measure_disk(tmp_path, 1 << 24)
    assert min(speed.write, speed.read) > 0
    assert list(tmp_path.iterdir()) == []
    assert (
        disk_finding(tmp_path, DiskSpeed(2e9, 3e9, 1 << 40)).detail
        == "writes 2000 MB/s, reads 3000 MB/s, 1024.0 GiB free"
    )
    assert not disk_finding(tmp_path, DiskSpeed(2e9, 50e6, 1 << 40)).fine


def test_folder_that_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--path .*nowhere: must be an existing folder"):
        measure_disk(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"must have .* MiB free"):
        measure_disk(tmp_path, 1 << 60)


def test_report_in_three_forms() -> None:
    findings = [*compute_findings(LAPTOP), *host_findings(HOST)]
    report = json.loads(report_json(findings))
    assert report["torch"] == {"name": "torch", "fine": True, "told": "2.10.0", "mend": ""}
    lines = report_text(findings).splitlines()
    assert len(lines) == len(findings) + sum(not finding.fine for finding in findings)
    assert "\n" not in report_json(findings)
    has, lacks = short_lines(findings, with_lacks=True)
    assert has.startswith(f"machine: torch 2.10.0, megatron-core {SUPPORTED_CORE}, CPU cores 32, memory 256.0 GiB")
    assert "CUDA, NCCL, Transformer Engine" in lacks
    assert short_lines(findings, with_lacks=False) == [has]


def doctor(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/doctor.py", *flags]
    return subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=100)


def test_tool_reports_on_this_machine() -> None:
    result = doctor("--json")
    assert result.returncode == 0, result.stderr
    findings = json.loads(result.stdout)
    assert findings["megatron-core"]["fine"]
    assert findings["torch"]["told"].startswith("2.")
    for name, finding in findings.items():
        assert finding["fine"] or (finding["told"] and finding["mend"]), name
    assert {"CUDA", "NCCL", "Transformer Engine", "apex", "FP8 delayed", "/dev/shm", "network"} <= findings.keys()


def test_tool_refuses_a_missing_folder() -> None:
    result = doctor("--path", "no/such/folder")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: --path no/such/folder: must be an existing folder\n"
