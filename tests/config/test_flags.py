"""Every field of the config as a flag, in --help and in docs/flags.md."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from megatron_ettin.config.command_line import parse_command
from megatron_ettin.config.flags import REGENERATE, build_parser, flags_page
from megatron_ettin.config.run import run_options, run_sections
from megatron_ettin.config.sources import Sources
from megatron_ettin.config.value_types import MaskSchedule, Split, StepRange
from megatron_ettin.errors import ConfigError

MEGATRON_FLAGS = {
    "--num-layers",
    "--hidden-size",
    "--ffn-hidden-size",
    "--num-attention-heads",
    "--seq-length",
    "--micro-batch-size",
    "--global-batch-size",
    "--train-iters",
    "--lr",
    "--min-lr",
    "--lr-decay-style",
    "--lr-warmup-iters",
    "--lr-decay-iters",
    "--lr-wsd-decay-iters",
    "--weight-decay",
    "--adam-beta1",
    "--adam-beta2",
    "--adam-eps",
    "--clip-grad",
    "--seed",
    "--split",
    "--save",
    "--load",
    "--save-interval",
    "--eval-interval",
    "--eval-iters",
    "--log-interval",
    "--exit-interval",
    "--data-path",
    "--tokenizer-type",
    "--tokenizer-model",
    "--tensor-model-parallel-size",
    "--pipeline-model-parallel-size",
    "--sequence-parallel",
    "--use-distributed-optimizer",
    "--bf16",
    "--init-std",
}


def test_every_field_has_a_flag_and_every_flag_reaches_its_field() -> None:
    declared = [field.name for config in run_sections().values() for field in fields(config)]
    assert list(run_options()) == declared
    for name, option in run_options().items():
        example = {
            int: int(min(8, option.bounds.at_most or 8)),
            float: 0.5,
            str: "some text",
            bool: True,
            Sources: Sources.parse("some-text"),
            Split: Split.parse("8,1,1"),
            MaskSchedule: MaskSchedule.parse("0:0.3,1B:0.2"),
            StepRange: StepRange.parse("3:4"),
        }[option.type]
        if option.only_default:
            example = option.default
        expected = option.choices[-1] if option.choices else 2.5 if option.bounds.above == 1 else example
        command = parse_command([option.spell(expected)] if option.type is bool else [option.flag, str(expected)])
        assert getattr(getattr(command.config, option.section), name) == expected
        assert set(command.given) == {name}


def test_megatron_names_are_there() -> None:
    assert {option.flag for option in run_options().values()} >= MEGATRON_FLAGS


def test_help_lists_every_flag_with_its_default() -> None:
    text = " ".join(build_parser().format_help().split())
    for option in run_options().values():
        assert option.flag in text
        assert " ".join(option.help.split()) in text
    assert "width of the residual stream (default: 256)" in text
    assert "compute in bfloat16 with fp32 master weights (default: off)" in text
    assert "accumulate into the fp32 gradients; no effect on local layers (default: on)" in text


def test_flags_page_is_generated() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "flags.md"
    assert page.read_text(encoding="utf-8") == flags_page(), f"regenerate it: {REGENERATE}"


def test_integers_beyond_sixty_four_bits_are_refused_in_one_line() -> None:
    """Also where nothing else bounds them: a seed of 2**64 would end in numpy, a size in torch, after the launch."""
    checked = 0
    for option in run_options().values():
        if option.type is int:
            for written in (str(2**64), "9" * 5000, str(-(2**64))):
                with pytest.raises(ConfigError) as refusal:
                    parse_command([option.flag, written])
                assert str(refusal.value).startswith(option.flag)
                assert "\n" not in str(refusal.value)
            checked += 1
    assert checked > 20
