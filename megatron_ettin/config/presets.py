"""Named settings as data: the published recipe of the Ettin paper, by size and phase.

Values are those of the authors' training configurations; docs/recipe.md lists the uncertain ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from megatron_ettin.config.options import Value
from megatron_ettin.config.run import run_options

ETTIN_VOCAB_SIZE = 50_368
"""Vocabulary size of the published Ettin models, as their tokenizer gives it."""

PUBLISHED_TOKENS_PER_ROW = 615.3
"""Mean real tokens of an unpacked row in the first phase: 8.5B tokens / 2,997.6 steps / 4,608 rows."""

_SHAPES = """
size num-layers hidden-size ffn-hidden-size num-attention-heads
17m           7         256             384                   4
32m          10         384             576                   6
68m          19         512             768                   8
150m         22         768            1152                  12
400m         28        1024            2624                  16
1b           28        1792            3840                  28
"""
"""First and last layer are global in all sizes: the number of layers minus 1 is a multiple of 3."""

_SCHEDULES = """
size phase    train-tokens     lr max-lr min-lr weight-decay lr-warmup-tokens lr-wsd-decay-tokens save-interval-tokens
17m  pretrain         1.7T   3e-3      0      0         3e-4               4B                   0                 8.5B
17m  extend           250B   3e-3      0 1.5e-3         3e-4                0                   0                 8.5B
17m  decay             50B 1.5e-3   3e-3   6e-5         3e-4                0                   0                 8.5B
17m  cross             50B 1.5e-3      0   3e-5         3e-4               3B                 10B                  10B
32m  pretrain         1.7T   3e-3      0      0         3e-4               4B                   0                 8.5B
32m  extend           250B   3e-3      0 1.5e-3         3e-4                0                   0                 8.5B
32m  decay             50B 1.5e-3   3e-3   6e-5         3e-4                0                   0                 8.5B
32m  cross             50B 1.5e-3      0   3e-5         3e-4               3B                 10B                  10B
68m  pretrain         1.7T   3e-3      0      0         3e-4               3B                   0                 8.5B
68m  extend           250B   3e-3      0 1.5e-3         3e-4                0                   0                 8.5B
68m  decay             50B 1.5e-3   3e-3   6e-5         3e-4                0                   0                 8.5B
68m  cross             50B 1.5e-3      0   3e-5         3e-4               3B                 10B                  10B
150m pretrain         1.7T   8e-4      0      0         1e-5               3B                   0                 8.5B
150m extend           250B   8e-4      0   4e-4         1e-5                0                   0                 8.5B
150m decay             50B   4e-4   8e-4 1.6e-5         1e-5                0                   0                 8.5B
150m cross             50B   4e-4      0   8e-6         1e-5               3B                 10B                  10B
400m pretrain         1.7T   5e-4      0      0         1e-5               2B                   0                 8.5B
400m extend           250B   5e-4      0 2.5e-4         1e-5                0                   0                 8.5B
400m decay             50B 2.5e-4   5e-4   1e-5         1e-5                0                   0                 8.5B
400m cross             50B 2.5e-4      0   5e-6         1e-5               3B                 10B                  10B
1b   pretrain         567B   5e-4      0      0         5e-5               2B                   0                 8.5B
1b   extend        83.333B   5e-4      0 2.5e-4         5e-5                0                   0                 8.5B
1b   decay     16666666667 2.5e-4   5e-4   1e-5         5e-5                0                   0                 8.5B
1b   cross     16666666667 2.5e-4      0   5e-6         5e-5               1B              3.333B           3333333333
"""
"""Peak and final learning rates are the first phase's peak times 1, 1 to 1/2, 1/2 to 0.02, and 1/2 to 0.01. Weight
decay is relative to the first phase's peak (--max-lr, by default --lr) while phases keep the optimizer state."""

_PHASES = """
phase    seq-length lr-decay-style rope-global-base rope-local-base mlm-probability seed
pretrain       1024            WSD            10000           10000             0.3   21
extend         7999         1-sqrt           160000          160000             0.3   21
decay          7999         1-sqrt           160000          160000            0.15   21
cross          7999            WSD           160000          160000            0.15  210
"""

_LOCAL_BASES = """
size phase  objective rope-local-base
17m  extend mlm                 10000
17m  extend clm                 10000
17m  extend mntp                10000
17m  decay  clm                 10000
32m  decay  clm                 10000
68m  decay  clm                 10000
400m decay  clm                 10000
"""
"""Exceptions to the phases' RoPE base of local layers."""

_COMMON: Mapping[str, Value] = MappingProxyType(
    {
        "attention_output_dropout": 0.1,
        "packing": "none",
        "chunk_min_size": 512,
        "chunk_skip_size": 128,
        "real_tokens_per_row": PUBLISHED_TOKENS_PER_ROW,
        "eval_mlm_probability": 0.15,
        "global_batch_size": 4608,
        "eval_interval_tokens": 8_500_000_000,
        # A forward pass is a third of a step: 1% of the compute.
        "eval_tokens": 250_000_000,
        "optimizer": "stable_adamw",
        "adam_beta1": 0.9,
        "adam_beta2": 0.98,
        "adam_eps": 1e-6,
        "clip_grad": 0.0,
        "fp32_residual_connection": True,
    }
)

_KEYS = ("size", "phase", "objective")
"""Columns that select lines of a table; the others are settings."""


def _lines(table: str) -> list[dict[str, str]]:
    head, *lines = (line.split() for line in table.strip().splitlines())
    return [dict(zip(head, words, strict=True)) for words in lines]


def _settings(line: Mapping[str, str]) -> dict[str, Value]:
    """Return the settings of one line by field name."""
    options = {option.flag[2:]: option for option in run_options().values()}
    settings = ((options[column], text) for column, text in line.items() if column not in _KEYS)
    return {option.name: option.read(text, "preset") for option, text in settings}


_NANO: Mapping[str, Value] = MappingProxyType(
    {"num_layers": 4, "hidden_size": 192, "ffn_hidden_size": 288, "num_attention_heads": 4}
)
"""A shape without a recipe: about 2M parameters with a vocabulary of 4096, which the tokenizer determines."""

SIZES = tuple(line["size"] for line in _lines(_SHAPES))

PRESETS: Mapping[str, Mapping[str, Value]] = MappingProxyType(
    {"nano": _NANO}
    | {f"ettin-{line['size']}": {**_settings(line), "vocab_size": ETTIN_VOCAB_SIZE} for line in _lines(_SHAPES)}
)
"""Preset -> its shape, by field name."""


def preset_values(preset: str, objective: str, phase: str) -> dict[str, Value]:
    """Return all settings of a preset for an objective and a phase, by field name."""
    values = dict(PRESETS[preset])
    if preset == "nano":
        return values
    place = {"size": preset.removeprefix("ettin-"), "objective": objective, "phase": phase}
    values |= _COMMON
    for line in (*_lines(_SCHEDULES), *_lines(_PHASES), *_lines(_LOCAL_BASES)):
        if all(line.get(key, place[key]) == place[key] for key in _KEYS):
            values |= _settings(line)
    return values
