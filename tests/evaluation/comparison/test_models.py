"""Grouping results by size, by model and by revision."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.comparison.models import (
    ComparedModel,
    compared_model,
    final_models,
    size_groups,
    sources,
)
from megatron_ettin.evaluation.comparison.published import SIZES
from megatron_ettin.evaluation.results import ModelResults, read_results

from .results import answers, result, write_model


def described(**changed: object) -> ModelResults:
    model = {"kind": "encoder", "parameters": 1000, "folder": "/nowhere", "checksum": "c"} | changed
    return ModelResults("m", {name: value for name, value in model.items() if value is not None}, {})


def model(name: str, kind: str = "encoder", parameters: int = 1000, checksum: str = "") -> ComparedModel:
    description = {"kind": kind, "parameters": parameters, "folder": "/nowhere", "checksum": checksum or name}
    return compared_model(ModelResults(name, description, {}))


def test_model_is_read_with_its_results(tmp_path: Path) -> None:
    task = result(answers(0.75, 8))
    write_model(tmp_path, "tiny@ext20", "decoder", 5000, {"classification": {"rte": task}}, settings={"seeds": [7]})
    (compared,) = map(compared_model, read_results(tmp_path))
    assert (compared.name, compared.source, compared.revision) == ("tiny@ext20", "tiny", "ext20")
    assert (compared.kind, compared.parameters, compared.tokens) == ("decoder", 5000, None)
    assert compared.suites["classification"]["rte"] == task
    assert compared.settings["classification"]["rte"] == {"seeds": [7]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "diffusion"}, "kind 'diffusion' with 1000 parameters"),
        ({"parameters": 0}, "with 0 parameters"),
        ({"parameters": "many"}, "m/model.json is damaged: ValueError"),
        ({"kind": None}, "m/model.json is damaged: KeyError 'kind'"),
    ],
)
def test_invalid_descriptions_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compared_model(described(**changed))


def test_sizes_are_grouped_within_5_percent_of_the_smallest() -> None:
    models = [model("a", parameters=1050), model("b", "decoder", 1000), model("c", parameters=1060), model("d")]
    assert [[one.name for one in group] for group in size_groups(models)] == [["d", "a", "b"], ["c"]]


def test_sizes_of_the_paper_are_distinct() -> None:
    assert len(size_groups([model(str(size), parameters=size) for size in SIZES.values()])) == 6


def test_revisions_are_sorted_by_training() -> None:
    names = ["m@decay5", "m@step1000", "m", "m@step200", "m@ext30"]
    (revisions,) = sources([model(name) for name in names]).values()
    assert [one.name for one in revisions] == ["m@step200", "m@step1000", "m@ext30", "m@decay5", "m"]
    assert [one.name for one in final_models(revisions[:-1])] == ["m@decay5"]
    assert [one.name for one in final_models(revisions)] == ["m"]


def test_two_models_of_one_kind_and_size_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^a and b are two encoders of one size: name the .* --model$"):
        final_models([model("a", parameters=1000), model("b", parameters=1040)])
    with pytest.raises(ConfigError, match=r"^a and b are two decoders of one size with the same weights"):
        final_models([model("a", "decoder", checksum="x"), model("b", "decoder", checksum="x")])
    apart = [model("a"), model("b", "decoder"), model("c", parameters=1100)]
    assert len(final_models(apart)) == 3


TABLE = "revision,phase,step,tokens,learning_rate,loss,checksum\n"


def test_tokens_are_read_from_the_release_and_added_over_phases(tmp_path: Path) -> None:
    rows = "step10,pretrain,10,1000,,,\nstep20,pretrain,20,2000,,,\next5,extend,5,300,,,\ndecay2,decay,2,40,,,\n"
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "CHECKPOINTS.csv").write_text(TABLE + rows)
    tokens = {}
    for name in ("step10", "step20", "ext5", "decay2", "step99"):
        description = described(folder=str(tmp_path / "revisions" / name)).model
        tokens[name] = compared_model(ModelResults(f"m@{name}", description, {})).tokens
    assert tokens == {"step10": 1000, "step20": 2000, "ext5": 2300, "decay2": 2340, "step99": None}
    assert compared_model(described(folder=str(tmp_path / "main"))).tokens == 2340


@pytest.mark.parametrize("content", ["", "revision,phase\nm,pretrain\n", TABLE + "m,pretrain,1,many,,,\n", "\0"])
def test_damaged_checkpoints_table_is_ignored(tmp_path: Path, content: str) -> None:
    (tmp_path / "CHECKPOINTS.csv").write_text(content)
    assert compared_model(described(folder=str(tmp_path))).tokens is None
