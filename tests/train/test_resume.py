"""Settings that changed between two launches are listed."""

from __future__ import annotations

from megatron_ettin.train.resume import changed_settings
from tests.helpers.runs import tiny_run


def test_changed_settings_are_listed_with_both_values() -> None:
    before = tiny_run("mlm", seed=5, lr=1e-3).to_dict()
    changed = changed_settings(before, tiny_run("mlm", seed=21, lr=1e-3))
    assert changed == "--seed 21 (was 5)"


def test_settings_of_a_launch_may_change() -> None:
    before = tiny_run("mlm", save="a", data_path="a/b", log_interval=3).to_dict()
    later = tiny_run("mlm", save="c", load="a", data_path="b", log_interval=5, tensor_model_parallel_size=2)
    assert changed_settings(before, later) == ""


def test_settings_that_an_older_version_lacked_are_not_listed() -> None:
    before = tiny_run("mlm").to_dict()
    del before["training"]["seed"]
    del before["optimizer"]
    assert changed_settings(before, tiny_run("mlm")) == ""
