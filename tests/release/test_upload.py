"""Uploading with huggingface_hub's own client to a Hub on the loopback device: LFS objects, branches, resuming."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_ettin.convert.options import ExportOptions
from megatron_ettin.release.build import build_release
from megatron_ettin.release.plan.request import request_release
from tests.convert.test_tools import ROOT
from tests.release.hub_server import REGULAR_BYTES, LoopbackHub
from tests.release.runs import write_run

REVISIONS = {"step10": "revisions/step10", "step20": "revisions/step20", "main": "main"}


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as server:
        yield server


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    write_run(tmp_path / "run")
    return tmp_path / "run"


def client(hub_address: str, home: Path, *command: str, token: str = "hf_secret") -> subprocess.CompletedProcess[str]:
    """Run a program as a user of that Hub."""
    unset = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {
        "HF_ENDPOINT": hub_address,
        "HF_TOKEN": token,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def push(hub: LoopbackHub, run_folder: Path) -> subprocess.CompletedProcess[str]:
    """Release and upload by the command line."""
    out = run_folder.parent / "out"
    flags = ["--load", run_folder, "--save", out, "--workers", "1", "--no-check", "--push-to-hub", "me/it"]
    return client(hub.address, out.parent / "home", "tools/release.py", *map(str, flags))


PUSH_ONLY = """
import sys
from pathlib import Path
from megatron_ettin.convert.options import ExportOptions
from megatron_ettin.release.upload import upload_all
from megatron_ettin.release.plan.request import request_release
from megatron_ettin.cli import run_tool
run, out, license, raw = sys.argv[1:]
request = request_release(
    [Path(run)], Path(out), ExportOptions(license=license, repository="me/it"), raw=bool(raw), push=True
)
run_tool(lambda arguments: len(upload_all(request.targets, private=bool(raw), log=print)) * 0)
"""
"""Only the upload of the tool, which runs without torch."""


def release_and_push(
    hub: LoopbackHub, run_folder: Path, *, license: str = "unknown", raw: bool = False
) -> subprocess.CompletedProcess[str]:
    """Release in this process, then upload in another one, whose Hub is ``hub``."""
    out = run_folder.parent / "out"
    options = ExportOptions(license=license, repository="me/it")
    request = request_release([run_folder], out, options, raw=raw, push=True)
    build_release(request, workers=1, check=False, overwrite=True, log=lambda text: None)
    given = (str(run_folder), str(out), license, "raw" if raw else "")
    return client(hub.address, out.parent / "home", "-c", PUSH_ONLY, *given)


def local(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.timeout(300)
def test_every_branch_holds_its_revision_and_a_second_upload_sends_nothing(hub: LoopbackHub, run_folder: Path) -> None:
    first = push(hub, run_folder)
    assert first.returncode == 0, first.stderr
    out = run_folder.parent / "out"
    for branch, folder in REVISIONS.items():
        assert hub.branch("me/it", branch) == local(out / folder), branch
        large = [name for name, content in local(out / folder).items() if len(content) > REGULAR_BYTES]
        assert "model.safetensors" in large
        assert all(hub.repositories["me/it"].files[branch][name].is_lfs for name in large)
    one, other = (hub.branch("me/it", branch)["model.safetensors"] for branch in ("step10", "step20"))
    assert one != other
    assert len(hub.uploads) == len(set(hub.uploads)), "main's weights are those of step20, which are on the Hub already"
    assert "Bearer hf_secret" in hub.tokens
    assert 'revision="step10"' in hub.branch("me/it", "step10")["README.md"].decode()
    assert 'from_pretrained("me/it")' in hub.branch("me/it", "main")["README.md"].decode()

    uploads, commits = list(hub.uploads), hub.num_commits
    second = push(hub, run_folder)
    assert second.returncode == 0, second.stderr
    assert (hub.uploads, hub.num_commits) == (uploads, commits)
    assert second.stdout.count("nothing new") == 3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_transformers_loads_uploaded_revisions(hub: LoopbackHub, run_folder: Path) -> None:
    assert release_and_push(hub, run_folder).returncode == 0
    program = (
        "from transformers import AutoModelForMaskedLM, AutoTokenizer\n"
        "for revision in ('step10', 'step20', 'main'):\n"
        "    model = AutoModelForMaskedLM.from_pretrained('me/it', revision=revision)\n"
        "    tokenizer = AutoTokenizer.from_pretrained('me/it', revision=revision)\n"
        "    print(round(float(model.model.final_norm.weight[0]), 6), tokenizer('w5').input_ids)\n"
    )
    loaded = client(hub.address, run_folder.parent / "user", "-c", program)
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.splitlines() == ["0.1 [0, 5, 1]", "0.2 [0, 5, 1]", "0.2 [0, 5, 1]"]


def test_interrupted_upload_resumes(hub: LoopbackHub, run_folder: Path) -> None:
    hub.refuse_uploads_after = 1
    interrupted = release_and_push(hub, run_folder)
    assert interrupted.returncode == 2
    (line,) = [line for line in interrupted.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: --push-to-hub me/it: ")
    assert line.endswith("run the command again to resume")
    assert hub.branch("me/it", "step10")["model.safetensors"]
    assert "main" not in hub.repositories["me/it"].files or not hub.branch("me/it", "main")
    sent = set(hub.uploads)
    hub.refuse_uploads_after = None
    assert release_and_push(hub, run_folder).returncode == 0
    assert len(hub.uploads) == len(set(hub.uploads)), "nothing was sent twice"
    assert set(hub.uploads) > sent
    for branch, folder in REVISIONS.items():
        assert hub.branch("me/it", branch) == local(run_folder.parent / "out" / folder), branch


def test_only_changed_files_are_sent_and_extra_files_are_removed(hub: LoopbackHub, run_folder: Path) -> None:
    assert release_and_push(hub, run_folder).returncode == 0
    uploads = list(hub.uploads)
    again = release_and_push(hub, run_folder, license="mit")
    assert again.returncode == 0, again.stderr
    assert hub.uploads == uploads, "weights are the same"
    assert b"license: mit" in hub.branch("me/it", "step10")["README.md"]
    hub.repositories["me/it"].files["main"]["left over"] = hub.repositories["me/it"].files["main"]["config.json"]
    assert release_and_push(hub, run_folder, license="mit").returncode == 0
    assert hub.branch("me/it", "main") == local(run_folder.parent / "out" / "main")


def test_raw_checkpoints_and_training_order_become_datasets(hub: LoopbackHub, run_folder: Path) -> None:
    (run_folder / "training_order").mkdir()
    (run_folder / "training_order" / "step_0000001.parquet").write_bytes(os.urandom(3 * REGULAR_BYTES))
    pushed = release_and_push(hub, run_folder, raw=True)
    assert pushed.returncode == 0, pushed.stderr
    assert all(repository.private for repository in hub.repositories.values())
    out = run_folder.parent / "out"
    assert hub.branch("datasets/me/it-checkpoints", "main") == local(out / "raw")
    assert hub.branch("datasets/me/it-data-order", "main") == local(out / "training_order")
    assert any(name.endswith(".distcp") for name in local(out / "raw"))


def test_unreachable_hub_is_one_line(run_folder: Path) -> None:
    with LoopbackHub() as closed:
        pass
    failed = release_and_push(closed, run_folder)
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].startswith("error: --push-to-hub me/it: ")
    assert "Traceback" not in failed.stderr
