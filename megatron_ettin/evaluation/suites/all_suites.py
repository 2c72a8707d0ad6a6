"""All suites, and their selection by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.suite import Suite
from megatron_ettin.evaluation.suites.bias.suite import SUITE as BIAS
from megatron_ettin.evaluation.suites.classification.suite import SUITE as CLASSIFICATION
from megatron_ettin.evaluation.suites.generative.suite import SUITE as GENERATIVE
from megatron_ettin.evaluation.suites.intrinsic.suite import SUITE as INTRINSIC
from megatron_ettin.evaluation.suites.retrieval.suite import SUITE as RETRIEVAL

ALL_SUITES: tuple[Suite, ...] = (CLASSIFICATION, RETRIEVAL, GENERATIVE, BIAS, INTRINSIC)
ALL = "all"
_LOCAL_ONLY = {INTRINSIC.name}
"""Suites without data on the Hub."""


def choose_suites(names: Sequence[str], data: Path | None) -> list[Suite]:
    """Return the suites with these names; ``all`` selects every suite whose data are available.

    Without a data folder, the data of the Hub count as available.

    Raises:
        ConfigError: the data folder does not exist, or ``all`` finds no suite in it.
    """
    if data and not data.is_dir():
        raise ConfigError(f"--data {data}: there is no such folder")
    if ALL not in names:
        return [suite for suite in ALL_SUITES if suite.name in names]
    if data is None:
        return [suite for suite in ALL_SUITES if suite.name not in _LOCAL_ONLY]
    available = [suite for suite in ALL_SUITES if (data / suite.name).is_dir()]
    if not available:
        known = ", ".join(suite.name for suite in ALL_SUITES)
        raise ConfigError(f"--data {data}: has no folder of a suite ({known}), which --suite {ALL} looks for")
    return available
