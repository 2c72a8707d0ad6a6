"""If apex (or Transformer Engine) can be imported, megatron-core keeps the step of an optimizer elsewhere."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoint.training import Case, launch
from tests.helpers.distributed import run_ranks
from tests.optim.with_apex import CASES


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_resume_with_apex_equals_one_without(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.optim.with_apex", str(tmp_path)],
        env={**os.environ, **environment, "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert ran.returncode == 0, ran.stderr
    losses = json.loads(ran.stdout.splitlines()[-1])
    for name, overrides in CASES.items():
        assert losses[name]["resumed"] == losses[name]["uninterrupted"][3:], name
        without = run_ranks(1, launch, Case(9, "clm", overrides=overrides))[0]["losses"]
        assert losses[name]["uninterrupted"] == pytest.approx(without, rel=1e-6), name
