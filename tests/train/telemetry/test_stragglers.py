"""The slowest rank is reported, and measuring it does not change training."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from megatron_ettin.checkpoint.folder.layout import METRICS_FILE
from megatron_ettin.config.run import RunConfig
from megatron_ettin.train.telemetry.metrics import Record
from megatron_ettin.train.telemetry.stragglers import Straggler, Work, slowest
from tests.helpers.corpora import babble, write_corpus, write_word_tokenizer
from tests.helpers.distributed import run_ranks
from tests.helpers.launches import SLOWEST, launch, metrics
from tests.helpers.runs import TINY, tiny_run

SLEEP_SECONDS = 0.5
"""Of the slowed rank in each micro-batch; its work takes some tens of milliseconds, more on a busy machine."""
THRESHOLD = 1.05
PP2 = {"pipeline_model_parallel_size": 2}
TP2 = {"tensor_model_parallel_size": 2}
LINE = re.compile(r"slowest rank (.*): ([\d.]+) x the median rank's work, (\d+)% of the step")


def works(*own_seconds: float, parts: int = 1) -> list[Work]:
    return [Work((rank % parts, 0), seconds, 4.0) for rank, seconds in enumerate(own_seconds)]


def test_the_slowest_rank_is_relative_to_the_median_of_its_peers() -> None:
    assert slowest(works(1.0, 2.0, 3.0, 1.5, 1.8)) == Straggler(2, 3.0 / 1.8, 3.0 / 4.0)
    # The median of two is the other one.
    assert slowest(works(1.0, 3.0)) == Straggler(1, 3.0, 0.75)
    # Stages have different work: ranks 0, 2, 4 are compared, and 1, 3, 5.
    assert slowest(works(1.0, 3.0, 1.2, 3.3, 1.0, 3.0, parts=2)) == Straggler(2, 1.2, 0.3)


def test_ranks_without_peers_are_not_compared() -> None:
    assert slowest(works(1.0, 3.0, parts=2)) is None
    assert slowest([Work((0, 0), 0.0, 0.0)] * 2) is None


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("material")
    tokenizer = write_word_tokenizer(folder / "tokenizer", [f"word{i}" for i in range(TINY.vocab_size - 5)])
    documents = [document.tolist() for document in babble(120, TINY.vocab_size)]
    return {"data_path": write_corpus(folder / "corpus", documents), "tokenizer_model": str(tokenizer)}


def launch_slowed(config: RunConfig, slow_rank: int) -> str:
    """Launch on this rank; the forward pass of ``slow_rank`` sleeps."""
    import torch.distributed

    from megatron_ettin.model.ettin import EttinModel

    real = EttinModel.forward

    def forward(self: Any, *arguments: Any, **named: Any) -> Any:
        if torch.distributed.get_rank() == slow_rank:
            time.sleep(SLEEP_SECONDS)
        return real(self, *arguments, **named)

    with patch.object(EttinModel, "forward", forward):
        return launch(config)


def settings(material: dict[str, str], save: Path, **more: Any) -> RunConfig:
    small: dict[str, Any] = {"micro_batch_size": 1, "global_batch_size": 4, "train_iters": 3, "log_interval": 2}
    small |= {"eval_interval": 0, "attention_output_dropout": 0.1, "save": str(save)}
    return tiny_run("mlm", **(small | material | more))


def slowest_of(save: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (save / METRICS_FILE).read_text().splitlines()]
    return [{name: line[name] for name in SLOWEST if name in line} for line in lines]


@pytest.mark.parametrize(
    ("world_size", "slow_rank", "layout"),
    [
        (2, 1, {"global_batch_size": 2}),
        pytest.param(3, 2, {"global_batch_size": 6}, marks=pytest.mark.slow),
        pytest.param(4, 2, PP2, marks=pytest.mark.slow),
        pytest.param(4, 3, TP2, marks=pytest.mark.slow),
    ],
    ids=["two-replicas", "three-replicas", "two-pipelines", "two-tensor-groups"],
)
def test_a_slow_rank_is_reported_and_training_is_bit_equal(
    tmp_path: Path, material: dict[str, str], world_size: int, slow_rank: int, layout: dict[str, Any]
) -> None:
    slow, plain = tmp_path / "slow", tmp_path / "plain"
    config = settings(material, slow, straggler_threshold=THRESHOLD, **layout)
    output = run_ranks(world_size, launch_slowed, config, slow_rank)[0]
    run_ranks(world_size, launch, settings(material, plain, straggler_threshold=0.0, **layout))
    assert metrics(slow) == metrics(plain)
    assert slowest_of(plain) == [{}] * 2
    lines = [line for line in output.splitlines() if line.startswith("slowest rank")]
    records = slowest_of(slow)
    assert len(lines) == len(records) == 2
    for line, figures in zip(lines, records, strict=True):
        rank, ratio, share = (figures[name] for name in SLOWEST)
        assert replica_of(rank, layout) == replica_of(slow_rank, layout)
        assert ratio > THRESHOLD
        assert 0.3 < share <= 1
        replica = "" if world_size < 4 else f", replica {replica_of(slow_rank, layout)} of the model"
        written = LINE.fullmatch(line)
        assert written
        assert written[1] == f"{rank} ({socket.gethostname()}{replica})"
        assert float(written[2]) == pytest.approx(ratio, abs=0.006)
        assert float(written[3]) == pytest.approx(100 * share, abs=0.6)


def replica_of(rank: int, layout: dict[str, Any]) -> int:
    """Return the replica of a rank: tensor-parallel ranks are adjacent, the stages of four ranks two apart."""
    if "pipeline_model_parallel_size" in layout:
        return rank % 2
    return rank // layout.get("tensor_model_parallel_size", 1)


def reports(config: RunConfig, own_seconds: list[list[float]]) -> tuple[Record, str, Record]:
    """Add steps of four seconds with this rank's own seconds; return their report, and the one after it."""
    from megatron_ettin.runtime.device import choose_device
    from megatron_ettin.runtime.process import start_process
    from megatron_ettin.train.telemetry.stragglers import Stragglers

    device = choose_device("cpu")
    ranks = start_process(config, device)
    stragglers = Stragglers(ranks, device, config.parallel.straggler_threshold)
    stragglers.add(3.9, 4.0)  # the first step of a launch does not count
    for seconds in own_seconds[ranks.rank]:
        stragglers.add(seconds, 4.0)
    return (*stragglers.report(), stragglers.report()[0])


def reported(world_size: int, own_seconds: list[list[float]], **settings: Any) -> tuple[Record, str]:
    """Return the report, which is the same on all ranks."""
    (figures, line, rest), *others = run_ranks(world_size, reports, tiny_run("mlm", **settings), own_seconds)
    assert others == [(figures, line, rest)] * (world_size - 1)
    assert rest == {}, "each report covers the steps since the previous one"
    return figures, line


def figures_of(rank: int, ratio: float, share: float) -> Record:
    return dict(zip(SLOWEST, (rank, ratio, share), strict=True))


def test_medians_of_all_ranks_are_compared() -> None:
    seconds = [[1.0, 1.0, 3.9], [1.0, 1.5, 2.0], [3.0, 3.0, 0.1]]  # a pause does not affect the median
    figures, line = reported(3, seconds)
    assert figures == figures_of(2, 2.0, 0.75)
    assert line == f"slowest rank 2 ({socket.gethostname()}): 2.00 x the median rank's work, 75% of the step"


@pytest.mark.parametrize(
    ("layout", "seconds", "rank", "replica"), [(PP2, [1, 2, 3, 3], 1, 1), (TP2, [1, 3, 1.3, 3.6], 2, 1)]
)
def test_ranks_of_one_replica_are_not_compared(
    layout: dict[str, Any], seconds: list[float], rank: int, replica: int
) -> None:
    figures, line = reported(4, [[each] for each in seconds], straggler_threshold=1.1, **layout)
    assert figures["slowest_rank"] == rank
    assert line.startswith(f"slowest rank {rank} ({socket.gethostname()}, replica {replica} of the model): ")


def test_below_the_threshold_there_are_figures_but_no_line() -> None:
    seconds = [[2.0], [2.8]]
    assert reported(2, seconds, straggler_threshold=1.5) == (figures_of(1, 1.4, 0.7), "")
    assert reported(2, seconds, straggler_threshold=0.0) == ({}, "")


def test_a_single_replica_is_not_compared() -> None:
    assert reported(2, [[1.0], [3.0]], tensor_model_parallel_size=2) == ({}, "")
