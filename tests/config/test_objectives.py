"""The table of objectives: each row is consistent, and nothing else in the package names an objective."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from megatron_ettin.config.layer_pattern import layer_pattern
from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.objectives import OBJECTIVES, RELEASED_OBJECTIVES, is_encoder, mask_kind_of, names_of
from megatron_ettin.config.training import TrainingConfig

PACKAGE = Path(__file__).resolve().parents[2] / "megatron_ettin"
NAMING = ("config/objectives.py", "config/presets.py")
"""The table itself, and the data of the presets."""


def test_objectives_and_their_masks() -> None:
    kinds = {name: mask_kind_of(name) for name in OBJECTIVES}
    assert kinds == {"mlm": "bidirectional", "clm": "causal", "mntp": "bidirectional"}
    assert {name: is_encoder(name) for name in OBJECTIVES} == {"mlm": True, "clm": False, "mntp": True}
    assert RELEASED_OBJECTIVES == ("mlm", "clm")
    assert (names_of("encoder"), names_of("decoder")) == ("mlm or mntp", "clm")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_row_is_consistent(name: str) -> None:
    traits = OBJECTIVES[name]
    assert (traits.product == "encoder") == (traits.mask_kind == "bidirectional")
    assert traits.hides_tokens == ("mask" in traits.special_tokens) == (traits.quality_metric == "masked_accuracy")
    assert TrainingConfig(objective=name).objective == name
    # A local layer of an encoder sees tokens on both sides, one of a decoder those before.
    left, right = next(layer.window for layer in layer_pattern(ModelConfig(), traits.mask_kind) if layer.window)
    assert left > 0
    assert (right > 0) == is_encoder(name)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_implementation_is_a_class_of_objectives(name: str) -> None:
    from megatron_ettin.objectives.objective import Objective

    module, _, implementation = OBJECTIVES[name].implementation.partition(":")
    assert module == f"megatron_ettin.objectives.{name}"
    assert issubclass(getattr(import_module(module), implementation), Objective)


def test_released_classes_exist_in_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    for traits in OBJECTIVES.values():
        for class_name in (traits.hub.architecture, traits.hub.base_architecture, traits.hub.auto_class):
            assert hasattr(transformers, class_name), class_name
        assert getattr(transformers, traits.hub.architecture).config_class.model_type == traits.hub.model_type


def test_only_the_table_names_an_objective() -> None:
    named = re.compile(rf"\b({'|'.join(OBJECTIVES)})\b(?!-)")  # --mlm-probability is a flag
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if place in NAMING:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if named.search(line) and not line.startswith("from megatron_ettin.objectives."):
                found.append(f"{place}:{number}: {line.strip()}")
    assert found == []
