"""Released models of both kinds, saved once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_ettin.evaluation.models.subject import Subject, open_subject
from tests.evaluation.saved import save_model


@pytest.fixture(scope="session")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    folder: Path = tmp_path_factory.mktemp("models")
    return {kind: open_subject(str(save_model(kind, folder / kind))) for kind in ("encoder", "decoder")}
