"""What is refused of sources, chunks, masks and batches, and how the share of masks goes with the tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from megatron_ettin.config.checks import check_data
from megatron_ettin.config.command_line import parse_command
from megatron_ettin.config.presets import preset_values
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.planning.plan import build_plan
from tests.helpers.runs import tiny_run


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data_path": "0 a 1 b"}, "--data-path 0 a 1 b: the weight of a must be above 0"),
        ({"chunk_size": 65}, "--chunk-size 65: must be 8 to --seq-length 64"),
        ({"chunk_min_size": 33}, "--chunk-min-size 33: must be at most half a chunk of 64"),
        ({"chunk_size": 20, "chunk_min_size": 11}, "--chunk-min-size 11: must be at most half a chunk of 20"),
        ({"chunk_skip_size": 65}, "--chunk-skip-size 65: must be at most a chunk, 64"),
        ({"mlm_probability_schedule": "0.3,0.2"}, "--mlm-probability-schedule 0.3,0.2: must be a share above 0 and"),
        ({"mlm_probability_schedule": "nan"}, "--mlm-probability-schedule nan: must be a share above 0 and at most 1"),
        ({"mlm_probability_schedule": "5:0.3"}, "--mlm-probability-schedule 5:0.3: must be"),
        ({"mlm_probability_schedule": "0:0.3,0:0.2"}, "--mlm-probability-schedule 0:0.3,0:0.2: must be"),
        ({"mlm_probability_schedule": "0:0.3,5B:1.2"}, "--mlm-probability-schedule 0:0.3,5B:1.2: must be"),
        (
            {"masking": "span", "mask_span_length": 1.1, "mlm_probability": 0.6},
            "--mask-span-length 1.1: leaves no room",
        ),
        ({"global_batch_tokens": 63}, "--global-batch-tokens 63: must hold a row of --seq-length 64"),
        ({"micro_batch_tokens": 63}, "--micro-batch-tokens 63: must hold a row of --seq-length 64"),
        ({"batch_warmup_start": 4}, "--batch-warmup-start 4: belongs to --batch-warmup-tokens"),
        (
            {"batch_warmup_start": 9, "batch_warmup_tokens": 100},
            "--batch-warmup-start 9: must be at most the full batch",
        ),
    ],
)
def test_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_data(tiny_run("mlm", **settings))
    assert str(caught.value).startswith(message)


def test_the_share_of_masks_goes_with_the_tokens() -> None:
    data = tiny_run("mlm", mlm_probability_schedule="0:0.3,250B:0.15,1T:0.2").data
    shares = [data.mask_ratio(tokens) for tokens in (0, 250 * 10**9 - 1, 250 * 10**9, 10**12 - 1, 10**13)]
    assert shares == [0.3, 0.3, 0.15, 0.15, 0.2]
    assert data.largest_mask_ratio == 0.3
    assert tiny_run("mlm", mlm_probability=0.4).data.mask_ratio(10**13) == 0.4
    assert tiny_run("mlm", mlm_probability_schedule="0.2").data.mask_ratio(10**13) == 0.2


def test_a_blend_on_the_command_line() -> None:
    config = parse_command(["--data-path", "0.6", "A", "0.4", "B", "--seq-length", "128"]).config
    assert (str(config.data.data_path), config.data.seq_length) == ("0.6 A 0.4 B", 128)
    assert parse_command(["--data-path", "0.6 A 0.4 B"]).config.data == replace(config.data, seq_length=1024)


def test_presets_cut_as_published_at_their_own_length_only() -> None:
    for phase in ("pretrain", "extend", "decay", "cross"):
        values = preset_values("ettin-17m", "mlm", phase)
        check_data(RunConfig().with_values({**values, "objective": "mlm"}))
        assert (values["chunk_min_size"], values["chunk_skip_size"]) == (512, 128)
    shorter = parse_command(["--preset", "ettin-17m", "--objective", "mlm", "--seq-length", "256"]).config
    assert shorter.data.chunk_min_size == 0
    check_data(shorter)


def test_a_plan_in_tokens() -> None:
    config = tiny_run("mlm", global_batch_tokens=4000, micro_batch_tokens=600, batch_warmup_tokens=10_000)
    plan = build_plan(config, 2)
    assert plan.tokens_per_step == 4000
    assert plan.layout.micro_batches_per_step == 4, "two ranks share seven micro-batches of 600 tokens"
