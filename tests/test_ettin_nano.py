"""examples/ettin_nano.sh at reduced length: every phase, and cross-training in both directions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_ettin.checkpoint.folder.layout import read_run_json, resolve_checkpoint

ROOT = Path(__file__).resolve().parents[1]
KINDS = {
    "encoder": ["pretrain", "extend", "decay"],
    "decoder": ["pretrain", "extend", "decay"],
    "encoder_from_decoder": ["pretrain", "extend", "decay", "cross"],
    "decoder_from_encoder": ["pretrain", "extend", "decay", "cross"],
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_script_writes_four_models_a_report_and_a_figure(tmp_path: Path) -> None:
    output = tmp_path / "nano"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "examples/ettin_nano.sh", "--output", str(output), "--tokens", "40000"],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=1100,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    text = (output / "report.md").read_text()
    assert "(four_lines.png)" in text
    assert (output / "four_lines.png").stat().st_size > 10_000
    for kind, phases in KINDS.items():
        save = output / kind / ("" if "from" in kind else "decay")
        lineage = read_run_json(resolve_checkpoint(save))["lineage"]
        assert [entry["phase"] for entry in lineage] == phases
        assert f"| {kind.replace('_', ' ')} | " in text
        measured = [json.loads((output / "eval" / f"{kind}_{name}.json").read_text()) for name in ("mlm", "clm")]
        assert [evaluation["objective"] for evaluation in measured] == ["mlm", "clm"]
        assert measured[0]["checkpoint"] == measured[1]["checkpoint"] == str(resolve_checkpoint(save))
        # Uniform guesses over the vocabulary have a loss of ln 4096 = 8.3.
        own = measured[0 if kind.startswith("encoder") else 1]
        assert own["validation_loss"] < 7.5
