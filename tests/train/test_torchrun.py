"""Real torchrun processes that are stopped, signalled and killed; slow."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from megatron_ettin.checkpoint.folder.layout import STATE_FOLDER, list_steps, read_run_json, resolve_checkpoint
from megatron_ettin.train.stop import STOP_FILE
from tests.helpers.corpora import babble, write_corpus, write_word_tokenizer
from tests.helpers.launcher import Torchrun, holds_signals, is_alive, wait_until_gone
from tests.helpers.launches import metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

VOCABULARY = 128
STEPS = 150
TIMEOUT_SECONDS = 10
MODEL = {
    "num-layers": 4,
    "hidden-size": 64,
    "ffn-hidden-size": 96,
    "num-attention-heads": 4,
    "sliding-window": 16,
    "seq-length": 64,
    "attention-output-dropout": 0.1,
}
RUN = {
    "device": "cpu",
    "micro-batch-size": 2,
    "global-batch-size": 4,
    "train-iters": STEPS,
    "log-interval": 1,
    "eval-interval": 20,
    "save-interval": 40,
    "split": "80,20,0",
    "optimizer": "stable_adamw",
    "clip-grad": 0,
}

Flags = Callable[..., list[str]]


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Flags:
    folder = tmp_path_factory.mktemp("material")
    tokenizer = write_word_tokenizer(folder / "tokenizer", [f"word{i}" for i in range(VOCABULARY - 5)])
    corpus = write_corpus(folder / "corpus", [document.tolist() for document in babble(120, VOCABULARY)])

    def of(save: Path, **more: Any) -> list[str]:
        """Return the flags of a launch that starts or resumes."""
        values = {**MODEL, **RUN, **{name.replace("_", "-"): value for name, value in more.items()}}
        values |= {"data-path": corpus, "tokenizer-model": tokenizer, "save": save, "load": save}
        return [part for name, value in {"objective": "mlm", **values}.items() for part in (f"--{name}", str(value))]

    return of


def state_of(save: Path, folder: Path) -> dict[str, Any]:
    """Return all tensors of a run's last checkpoint by name, with the optimizer's."""
    merged = folder / f"{save.name}.pt"
    dcp_to_torch_save(resolve_checkpoint(save) / STATE_FOLDER, merged)
    content = torch.load(merged, weights_only=False)
    assert isinstance(content, dict)
    return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}


def stop_record(save: Path) -> dict[str, Any]:
    record = json.loads((save / STOP_FILE).read_text())
    assert isinstance(record, dict)
    return record


def wait_until_loading(launch: Torchrun, save: Path) -> None:
    """Wait until rank 0 has locked the folder and all ranks hold signals, before torch and megatron-core are loaded."""
    while not (save / "lock").exists() or sum(map(holds_signals, launch.ranks())) < 2:
        time.sleep(0.01)


class TestStop:
    """Signals to the agent, as schedulers and users send them."""

    def test_resume_after_stops_at_random_steps_is_bit_equal(self, tmp_path: Path, flags: Flags) -> None:
        """Losses, validation, every tensor of weights and optimizer, order and masks."""
        uninterrupted, parts = tmp_path / "uninterrupted", tmp_path / "parts"
        with Torchrun(tmp_path / "uninterrupted.log", flags(uninterrupted)) as launch:
            assert launch.wait(120) == 0
        seed = random.randrange(10**6)
        rng = random.Random(seed)
        kinds = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGTERM]
        for number, kind in enumerate(kinds):
            done = list_steps(parts)[-1] if parts.is_dir() and list_steps(parts) else 0
            with Torchrun(tmp_path / f"part{number}.log", flags(parts)) as launch:
                launch.wait_for(f"step {done + rng.randint(1, 25)}/")
                time.sleep(rng.uniform(0, 0.2))
                launch.process.send_signal(kind)
                assert launch.wait(60) == 1, seed
                assert "Traceback" not in launch.output.split("Received")[0]
            record = stop_record(parts)
            assert record["reason"] == kind.name, seed
            assert record["step"] == list_steps(parts)[-1] == metrics(parts)[-1]["step"], seed
            assert record["tokens"] == metrics(parts)[-1]["tokens"], seed
        with Torchrun(tmp_path / "last.log", flags(parts)) as launch:
            assert launch.wait(120) == 0
        assert not (parts / STOP_FILE).exists()
        assert metrics(parts) == metrics(uninterrupted), seed
        one, other = state_of(uninterrupted, tmp_path), state_of(parts, tmp_path)
        assert one.keys() == other.keys()
        assert any("optimizer" in name for name in one)
        for name, value in one.items():
            assert torch.equal(value, other[name]), (seed, name)
        run_jsons = [read_run_json(resolve_checkpoint(save)) for save in (uninterrupted, parts)]
        for key in ("step", "consumed_samples", "consumed_tokens", "lineage", "validation_loss"):
            assert run_jsons[0][key] == run_jsons[1][key], seed

    def test_signal_before_the_first_step(self, tmp_path: Path, flags: Flags) -> None:
        save = tmp_path / "run"
        # On a busy machine, loading torch and megatron-core takes longer than torchrun waits by default.
        with Torchrun(tmp_path / "log", flags(save), options=["--shutdown-timeout=600"]) as launch:
            wait_until_loading(launch, save)
            launch.process.send_signal(signal.SIGTERM)
            assert launch.wait(120) == 1
            assert "Error" not in launch.output.split("Traceback")[0]
        assert stop_record(save) == {"reason": "SIGTERM", "step": 0, "tokens": 0}
        assert list_steps(save) == []

    def test_signal_to_one_rank_lets_both_end_with_0(self, tmp_path: Path, flags: Flags) -> None:
        save = tmp_path / "run"
        with Torchrun(tmp_path / "log", flags(save)) as launch:
            launch.wait_for("step 5/")
            import os

            os.kill(launch.ranks()[1], signal.SIGTERM)
            assert launch.wait(60) == 0
        assert stop_record(save)["reason"] == "SIGTERM"

    def test_second_signal_ends_at_once(self, tmp_path: Path, flags: Flags) -> None:
        """Also during a long validation."""
        save = tmp_path / "run"
        endless = flags(save, eval_interval=3, eval_iters=0, split="1,99,0", micro_batch_size=1, global_batch_size=2)
        with Torchrun(tmp_path / "log", endless) as launch:
            launch.wait_for("step 2/")
            ranks = launch.ranks()
            launch.process.send_signal(signal.SIGTERM)
            time.sleep(0.02)
            started = time.monotonic()
            while time.monotonic() - started < 1.5 and launch.process.poll() is None:
                time.sleep(0.05)
            if launch.process.poll() is None:
                launch.process.send_signal(signal.SIGTERM)
            assert launch.wait(10) == 1
            assert wait_until_gone(ranks, 2) == []

    def test_ranks_die_with_their_agent(self, tmp_path: Path, flags: Flags) -> None:
        with Torchrun(tmp_path / "log", flags(tmp_path / "run", train_iters=100_000)) as launch:
            launch.wait_for("step 5/")
            ranks = launch.ranks()
            assert len(ranks) == 2
            assert all(map(is_alive, ranks))
            launch.process.kill()
            assert wait_until_gone(ranks, 5) == []


class TestHang:
    """If a rank stalls, stops or dies, the job ends in time and names the rank."""

    @pytest.mark.parametrize("rank", [0, 1])
    @pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
    def test_job_ends_in_time_and_names_the_rank(
        self, tmp_path: Path, flags: Flags, rank: int, number: signal.Signals
    ) -> None:
        import os

        settings = flags(tmp_path / "run", train_iters=100_000, timeout_seconds=TIMEOUT_SECONDS)
        # As in the example scripts; torchrun waits this long for a rank that does not react to SIGTERM.
        with Torchrun(tmp_path / "log", settings, options=["--shutdown-timeout=600"]) as launch:
            launch.wait_for("step 20/")
            ranks = launch.ranks()
            started = time.monotonic()
            os.kill(ranks[rank], number)
            assert launch.wait(TIMEOUT_SECONDS + 45) == 1
            assert time.monotonic() - started < TIMEOUT_SECONDS + 45
            assert f"rank {rank} (process {ranks[rank]} on " in launch.output
            assert "does not answer" in launch.output
            assert wait_until_gone(ranks, 2) == []

    @pytest.mark.parametrize(
        ("rank", "number", "reason"),
        [
            (0, signal.SIGSTOP, f"did not arrive within {TIMEOUT_SECONDS} s (--timeout-seconds)"),
            (1, signal.SIGSTOP, f"did not arrive within {TIMEOUT_SECONDS} s (--timeout-seconds)"),
            (1, signal.SIGKILL, "ended before the run started"),
        ],
    )
    def test_a_rank_that_never_arrives_is_named(
        self, tmp_path: Path, flags: Flags, rank: int, number: signal.Signals, reason: str
    ) -> None:
        import os

        save = tmp_path / "run"
        settings = flags(save, timeout_seconds=TIMEOUT_SECONDS)
        with Torchrun(tmp_path / "log", settings, options=["--shutdown-timeout=600"]) as launch:
            wait_until_loading(launch, save)
            ranks = launch.ranks()
            os.kill(ranks[rank], number)
            assert launch.wait(TIMEOUT_SECONDS + 45) == 1
            process = "process unknown" if number is signal.SIGKILL else f"process {ranks[rank]} on "
            assert f"error: rank {rank} ({process}" in launch.output
            assert f"{reason}\n" in launch.output
            assert launch.output.count("Traceback") == 1, "torchrun's own"
            assert wait_until_gone(ranks, 2) == []

    def test_a_rank_that_stops_during_validation_is_named(self, tmp_path: Path, flags: Flags) -> None:
        import os

        more: dict[str, Any] = {"eval_interval": 2, "eval_iters": 0, "split": "5,95,0", "timeout_seconds": 6}
        with Torchrun(tmp_path / "log", flags(tmp_path / "run", train_iters=100_000, **more)) as launch:
            launch.wait_for("validation loss")
            ranks = launch.ranks()
            os.kill(ranks[1], signal.SIGSTOP)
            assert launch.wait(6 + 45) == 1
            assert f"rank 1 (process {ranks[1]} on " in launch.output
