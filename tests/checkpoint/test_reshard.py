"""Resharding between all layouts: tensor, pipeline and data parallelism, distributed optimizer on and off."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest

from tests.checkpoint.test_resume import DISTRIBUTED, END, PP2, STABLE, STOP, TP2
from tests.checkpoint.training import Case, launch
from tests.helpers.distributed import MAX_RANKS, run_ranks

Layout = tuple[int, tuple[tuple[str, Any], ...]]

LAYOUTS: dict[str, Layout] = {
    f"tp{tp}-pp{pp}-dp{dp}{'-distributed' * distributed}": (
        tp * pp * dp,
        (*(TP2 if tp == 2 else ()), *(PP2 if pp == 2 else ()), *(DISTRIBUTED if distributed else ())),
    )
    for tp, pp, dp, distributed in product((1, 2), (1, 2), (1, 2), (False, True))
    if tp * pp * dp <= MAX_RANKS
}

Source = Callable[[str, str], dict[str, Any]]


def test_the_matrix_is_complete() -> None:
    """One and two in each dimension on up to four ranks: all but two in all three."""
    assert len(LAYOUTS) == 14
    assert LAYOUTS["tp2-pp1-dp2-distributed"] == (4, (*TP2, *DISTRIBUTED))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Return the uninterrupted run of an objective under a layout, saved at STOP; each is trained once."""

    @cache
    def run(objective: str, layout: str) -> dict[str, Any]:
        world_size, overrides = LAYOUTS[layout]
        save = str(tmp_path_factory.mktemp(f"{objective}-{layout}"))
        result = run_ranks(
            world_size, launch, Case(END, objective, save=save, save_at=STOP, overrides=overrides + STABLE)
        )
        assert isinstance(result[0], dict)
        return result[0]

    return run


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("after", LAYOUTS)
def test_losses_continue_from_every_layout(after: str, source: Source) -> None:
    """StableAdamW without dropout, six steps; objectives alternate, so that each layout is tested with both."""
    world_size, overrides = LAYOUTS[after]
    for index, before in enumerate(LAYOUTS):
        objective = ("mlm", "clm")[(index + list(LAYOUTS).index(after)) % 2]
        expected = source(objective, before)
        case = Case(END, objective, load=expected["folder"], overrides=overrides + STABLE)
        for result in run_ranks(world_size, launch, case):
            label = f"{objective}: {before} to {after}"
            np.testing.assert_allclose(result["losses"], expected["losses"][STOP:], rtol=1e-5, err_msg=label)
            assert len(result["losses"]) == END - STOP
            assert [phase.objective for phase in result["state"].lineage] == [objective]
            assert result["state"] == expected["state"]
