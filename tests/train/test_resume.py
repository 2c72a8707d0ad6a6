"""Settings that changed between two launches."""

from __future__ import annotations

from megatron_ettin.train.resume import changed_settings
from tests.helpers.runs import tiny_run


def test_names_what_differs_with_both_values() -> None:
    before = tiny_run("mlm", seed=5, lr=1e-3).to_dict()
    told = changed_settings(before, tiny_run("mlm", seed=21, lr=1e-3))
    assert told == "--seed 21 (was 5)"


def test_same_settings_in_another_launch_are_no_change() -> None:
    before = tiny_run("mlm", save="a", data_path="a/b", log_interval=3).to_dict()
    later = tiny_run("mlm", save="c", load="a", data_path="b", log_interval=5, tensor_model_parallel_size=2)
    assert changed_settings(before, later) == ""


def test_settings_that_an_older_version_did_not_have_are_no_change() -> None:
    before = tiny_run("mlm").to_dict()
    del before["training"]["seed"]
    del before["optimizer"]
    assert changed_settings(before, tiny_run("mlm")) == ""
