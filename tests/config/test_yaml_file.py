"""Settings from a YAML file: both key forms, sections, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from megatron_ettin.config.command_line import parse_command
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import ConfigError


def parse_yaml(folder: Path, text: str | bytes) -> RunConfig:
    path = folder / "run.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return parse_command(["--config", str(path)]).config


def refusal(folder: Path, text: str | bytes) -> str:
    with pytest.raises(ConfigError) as refused:
        parse_yaml(folder, text)
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith("--")
    assert str(folder / "run.yaml") in message
    return message


@pytest.mark.parametrize(
    "text",
    [
        "num_layers: 10\nlr: 1e-4\nbf16: true\n",
        "num-layers: 10\nlr: 0.0001\nbf16: yes\n",
        "model:\n  num_layers: 10\noptimizer:\n  lr: 1.0e-4\ntraining:\n  bf16: on\n",
        "model: {num-layers: 10}\nlr: 1e-4\ntraining: {bf16: true}\ndata:\n",
    ],
)
def test_flat_and_in_sections(tmp_path: Path, text: str) -> None:
    run = parse_yaml(tmp_path, text)
    assert run == RunConfig().with_values({"num_layers": 10, "lr": 1e-4, "bf16": True})


def test_saved_run_is_a_config_file(tmp_path: Path) -> None:
    config = RunConfig().with_values({"num_layers": 10, "split": "9,1,0", "save": "runs/a", "adam_eps": 1e-12})
    assert parse_yaml(tmp_path, yaml.safe_dump(config.to_dict())) == config
    assert RunConfig.from_dict(config.to_dict()) == config


def test_field_named_like_its_section(tmp_path: Path) -> None:
    assert parse_yaml(tmp_path, "optimizer: adamw\n").optimizer.optimizer == "adamw"
    assert parse_yaml(tmp_path, "optimizer: {optimizer: adamw, lr: 1}\n").optimizer.lr == 1.0


def test_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert parse_yaml(tmp_path, "# nothing\n") == RunConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hiden_size: 10", "unknown key hiden_size; did you mean hidden_size?"),
        ("hiden-size: 10", "unknown key hiden-size; did you mean hidden_size?"),
        ("model: {hiden_size: 10}", "unknown key model.hiden_size; did you mean hidden_size?"),
        ("model: {lr: 1}", "key model.lr belongs to section optimizer"),
        ("hidden_size: 10\nhidden_size: 12", "key hidden_size is given twice"),
        ("hidden_size: 10\nmodel: {hidden-size: 12}", "key hidden_size is given twice"),
        ("model:\n  lr: 1\n  lr: 2", "key lr is given twice"),
        ("- hidden_size", "must be a mapping of keys to values, is a list"),
        ("hidden_size: [1", "is not YAML"),
        (b"\xff\xfe\x00hidden", "is not YAML"),
        ("hidden_size: abc", "--hidden-size abc (--config"),
        ("hidden_size: true", "must be a whole number"),
        ("hidden_size: 10.0", "must be a whole number"),
        ("hidden_size:", "must be a whole number"),
        ("lr: .nan", "must be a finite number"),
        ("lr: true", "must be a finite number"),
        ("bf16: 1", "must be true or false"),
        ("bf16: 'true'", "must be true or false"),
        ("split: [969, 30, 1]", "must be text"),
        ("save: 2024-01-01", "must be text"),
        ("objective: bert", "must be one of mlm, clm"),
        ("seq_length: 4", "must be at least 8"),
        (f"lr: {'9' * 400}", "must be a finite number"),
        ("config: other.yaml", "unknown key config"),
        ("save: 2024-13-01", "is not YAML"),
        ('save: "a\\0b"', "must be text"),
    ],
)
def test_refusals(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert message in refusal(tmp_path, text)


def test_unknown_preset(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("preset: 17m\n")
    with pytest.raises(ConfigError, match="--preset 17m: must be one of"):
        parse_command(["--config", str(path)])
