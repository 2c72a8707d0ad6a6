"""From every layout to every other one: tensor, pipeline and data parallelism, distributed optimizer on and off."""

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
    """One and two in each direction, as far as four ranks go: all but two in all three."""
    assert len(LAYOUTS) == 14
    assert LAYOUTS["tp2-pp1-dp2-distributed"] == (4, (*TP2, *DISTRIBUTED))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Give the run of an objective at a layout that went through, saved at STOP on its way; made once each."""

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
def test_losses_go_on_from_every_layout(after: str, source: Source) -> None:
    """StableAdamW without dropout, six steps; objectives take turns, so that each layout meets both."""
    world_size, overrides = LAYOUTS[after]
    for index, before in enumerate(LAYOUTS):
        objective = ("mlm", "clm")[(index + list(LAYOUTS).index(after)) % 2]
        former = source(objective, before)
        case = Case(END, objective, load=former["folder"], overrides=overrides + STABLE)
        for result in run_ranks(world_size, launch, case):
            told = f"{objective}: {before} to {after}"
            np.testing.assert_allclose(result["losses"], former["losses"][STOP:], rtol=1e-5, err_msg=told)
            assert len(result["losses"]) == END - STOP
            assert [stretch.objective for stretch in result["state"].lineage] == [objective]
            assert result["state"] == former["state"]
