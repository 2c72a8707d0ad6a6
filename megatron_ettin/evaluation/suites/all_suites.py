"""The suites there are."""

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
"""What the Hub has no data for."""


def choose_suites(wanted: Sequence[str], data: Path | None) -> list[Suite]:
    """Return the suites of these names; ``all`` is every one whose data are there.

    Without a folder of data the Hub's are taken to be there.

    Raises:
        ConfigError: there is no such folder, or ``all`` finds nothing in it.
    """
    if data and not data.is_dir():
        raise ConfigError(f"--data {data}: there is no such folder")
    if ALL not in wanted:
        return [suite for suite in ALL_SUITES if suite.name in wanted]
    if data is None:
        return [suite for suite in ALL_SUITES if suite.name not in _LOCAL_ONLY]
    there = [suite for suite in ALL_SUITES if (data / suite.name).is_dir()]
    if not there:
        names = ", ".join(suite.name for suite in ALL_SUITES)
        raise ConfigError(f"--data {data}: holds no folder of a suite ({names}), which --suite {ALL} looks for")
    return there
