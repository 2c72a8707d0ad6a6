"""The command line: precedence of flag, YAML file, preset and default; refusals; rank and world size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from megatron_ettin.config.command_line import Launch, parse_command
from megatron_ettin.config.run import RunConfig, run_options, value_of
from megatron_ettin.config.value_types import format_token_count, parse_token_count
from megatron_ettin.errors import ConfigError


def write(folder: Path, text: str) -> str:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def refusal(*arguments: str) -> str:
    with pytest.raises(ConfigError) as refused:
        parse_command(arguments)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_empty_command_line_is_all_defaults() -> None:
    command = parse_command([])
    assert command.config == RunConfig()
    assert command.given == {}
    assert command.dry_run == ""


def test_values_have_the_types_of_their_fields() -> None:
    arguments = ["--hidden-size", "512", "--lr", "1e-3", "--split", "9,1,0", "--bf16", "--no-sequence-parallel"]
    config = parse_command(arguments).config
    assert (config.model.hidden_size, config.optimizer.lr, str(config.data.split)) == (512, 0.001, "9,1,0")
    assert config.training.bf16 is True
    assert config.parallel.sequence_parallel is False


def test_flag_overrides_yaml_overrides_preset_overrides_default(tmp_path: Path) -> None:
    config = write(tmp_path, "hidden_size: 512\nnum_layers: 10\n")
    command = parse_command(["--num-layers", "13", "--config", config, "--preset", "nano"])
    assert command.config.model.num_layers == 13
    assert command.config.model.hidden_size == 512
    assert command.config.model.ffn_hidden_size == 288
    assert command.config.data == RunConfig().data
    assert command.given == {
        "num_layers": "",
        "hidden_size": f"--config {config}",
        "ffn_hidden_size": "--preset nano",
        "num_attention_heads": "--preset nano",
    }


def test_flag_turns_off_what_yaml_turned_on(tmp_path: Path) -> None:
    config = write(tmp_path, "bf16: true\nsequence-parallel: true\n")
    run = parse_command(["--config", config, "--no-bf16"]).config
    assert run.training.bf16 is False
    assert run.parallel.sequence_parallel is True


def test_preset_in_yaml_and_overridden_by_flag(tmp_path: Path) -> None:
    config = write(tmp_path, "preset: ettin-32m\n")
    assert parse_command(["--config", config]).config.model.hidden_size == 384
    assert parse_command(["--config", config, "--preset", "ettin-1b"]).config.model.hidden_size == 1792


@pytest.mark.parametrize(
    ("arguments", "dry_run"), [(["--dry-run"], "table"), (["--dry-run=json"], "json"), (["--dry-run", "json"], "json")]
)
def test_dry_run_forms(arguments: list[str], dry_run: str) -> None:
    assert parse_command([*arguments, "--bf16"]).dry_run == dry_run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--hiden-size 100", "--hiden-size: unknown flag; did you mean --hidden-size?"),
        ("--hiden-size=100", "--hiden-size: unknown flag; did you mean --hidden-size?"),
        ("--qqqq", "--qqqq: unknown flag"),
        ("--hidden 100", "--hidden: unknown flag; did you mean --hidden-size?"),  # no abbreviations
        ("--no-bf61", "--no-bf61: unknown flag; did you mean --no-bf16?"),
        ("100", "100: does not belong to a flag; a flag takes one value at most"),
        ("--hidden-size abc", "--hidden-size abc: must be a whole number"),
        ("--hidden-size 1.5", "--hidden-size 1.5: must be a whole number"),
        ("--hidden-size 0", "--hidden-size 0: must be at least 1"),
        ("--hidden-size", "--hidden-size: expected one argument"),
        ("--bf16=yes", "--bf16/--no-bf16: ignored explicit argument 'yes'"),
        ("--lr fast", "--lr fast: must be a finite number"),
        ("--lr nan", "--lr nan: must be a finite number"),
        ("--lr -1", "--lr -1: must be at least 0"),
        ("--adam-beta1 1", "--adam-beta1 1: must be below 1"),
        ("--mlm-probability 0", "--mlm-probability 0: must be above 0"),
        ("--mlm-probability 1.1", "--mlm-probability 1.1: must be at most 1"),
        ("--seq-length 7", "--seq-length 7: must be at least 8"),
        ("--objective gpt", "--objective gpt: must be one of mlm, clm"),
        ("--optimizer ''", "--optimizer '': must be one of adamw"),
        ("--preset ettin-17b", "--preset ettin-17b: must be one of nano,"),
        ("--preset ettin-17b", "; did you mean ettin-1b?"),
        ("--dry-run=yaml", "--dry-run yaml: must be --dry-run or --dry-run=json"),
        ("--config /no/such.yaml", "--config /no/such.yaml: No such file or directory"),
    ],
)
def test_refusals_name_flag_value_and_rule(arguments: str, message: str) -> None:
    assert message in refusal(*arguments.split())


def test_value_with_line_breaks_stays_one_line() -> None:
    assert refusal("--hidden-size", "1\n2") == "--hidden-size 1 2: must be a whole number"


words = st.one_of(
    st.text(max_size=12),
    st.sampled_from([option.flag for option in run_options().values()]),
    st.sampled_from(
        ["--config", "--preset", "--dry-run", "--", "-", "=", "--=", "--no-", "-1", "1e999", "nano", "json"]
    ),
)


@settings(deadline=None)  # a parser is built each time
@given(st.lists(words, max_size=6))
def test_any_words_are_a_command_or_a_refusal_of_one_line(arguments: list[str]) -> None:
    assume(not {"-h", "--help"} & {word.split("=")[0] for word in arguments})
    try:
        outcome: object = parse_command(arguments).config.to_dict()
    except ConfigError as refused:
        outcome = str(refused)
    assert len(str(outcome).splitlines()) == 1


def test_tokens_are_written_with_suffixes() -> None:
    config = parse_command(
        ["--train-tokens", "1.7T", "--lr-warmup-tokens", "400m", "--save-interval-tokens=8.5B"]
    ).config
    assert config.training.train_tokens == 1_700_000_000_000
    assert config.optimizer.lr_warmup_tokens == 400_000_000
    assert config.checkpoint.save_interval_tokens == 8_500_000_000
    assert parse_command(["--train-tokens", "2048"]).config.training.train_tokens == 2048


@pytest.mark.parametrize("written", ["1.5", "-1B", "B", "1G", "1e400", "", "1_000", "nan"])
def test_invalid_token_count_is_refused(written: str) -> None:
    message = refusal(f"--train-tokens={written}")
    assert message.endswith("must be a whole number of tokens, in figures or with a suffix: 400M, 8.5B, 1.7T")


@given(st.integers(0, 10**16))
def test_formatted_token_count_is_parsed_as_the_same_number(count: int) -> None:
    assert parse_token_count(format_token_count(count)) == count


@pytest.mark.parametrize("yaml", ["train-tokens: 8.5B", "train-tokens: 8.5e+9", "train_tokens: 8500000000"])
def test_tokens_in_yaml(tmp_path: Path, yaml: str) -> None:
    assert parse_command(["--config", write(tmp_path, yaml)]).config.training.train_tokens == 8_500_000_000


def test_one_duration_in_two_units_is_refused_in_one_source_and_overridden_by_another(tmp_path: Path) -> None:
    assert refusal("--train-iters", "5", "--train-tokens", "5B") == (
        "--train-iters 5: and --train-tokens 5B set the same duration; give one of them"
    )
    config = write(tmp_path, "eval-interval: 5\neval-interval-tokens: 5\n")
    assert f"(--config {config}): and --eval-interval-tokens 5" in refusal("--config", config)
    config = write(tmp_path, "train-iters: 5\n")
    command = parse_command(["--config", config, "--train-tokens", "5B"])
    assert (command.config.training.train_iters, command.config.training.train_tokens) == (0, 5 * 10**9)
    assert command.given == {"train_tokens": ""}


def test_size_of_a_validation_is_given_in_one_unit(tmp_path: Path) -> None:
    assert refusal("--eval-iters", "5", "--eval-tokens", "5B") == (
        "--eval-iters 5: and --eval-tokens 5B set the same size; give one of them"
    )
    config = write(tmp_path, "eval-iters: 5\neval-tokens: 1M\n")
    assert f"(--config {config}): and --eval-tokens 1M set the same size" in refusal("--config", config)
    preset = ["--preset", "ettin-17m", "--objective", "mlm"]
    for arguments, expected in (
        ([], (100, 0)),
        (["--eval-tokens", "1M"], (0, 10**6)),
        (["--eval-tokens", "0"], (0, 0)),
        (["--eval-iters", "0", "--eval-tokens", "1M"], (0, 10**6)),
        (["--eval-iters", "7", "--eval-tokens", "0"], (7, 0)),
        (preset, (0, 250 * 10**6)),
        ([*preset, "--eval-iters", "7"], (7, 0)),
        ([*preset, "--eval-iters", "0"], (0, 0)),
        ([*preset, "--eval-tokens", "0"], (0, 0)),
    ):
        training = parse_command(arguments).config.training
        assert (training.eval_iters, training.eval_tokens) == expected, arguments


def test_a_default_in_steps_yields_to_tokens() -> None:
    config = parse_command(["--eval-interval-tokens", "5M"]).config
    assert (config.training.eval_interval, config.training.eval_interval_tokens) == (0, 5_000_000)


def test_a_preset_schedule_yields_to_a_run_in_steps() -> None:
    config = parse_command(["--preset", "ettin-17m", "--objective", "mlm", "--train-iters", "30"]).config
    assert (config.training.train_iters, config.training.train_tokens, config.optimizer.lr_warmup_tokens) == (30, 0, 0)
    config = parse_command(["--preset", "ettin-17m", "--objective", "mlm", "--train-tokens", "10B"]).config
    assert (config.training.train_tokens, config.optimizer.lr_warmup_tokens) == (10**10, 4 * 10**9)


PRESET_RUN = ["--preset", "ettin-17m", "--objective", "mlm", "--phase"]


@pytest.mark.parametrize("phase", ["pretrain", "extend", "decay", "cross"])
def test_a_flag_that_repeats_the_preset_changes_nothing(phase: str) -> None:
    plain = parse_command([*PRESET_RUN, phase])
    for option in run_options().values():
        if plain.is_from_preset(option.name):
            value = value_of(plain.config, option.name)
            repeated = parse_command([*PRESET_RUN, phase, *option.spell(value).split()])
            assert repeated.config == plain.config, option.flag
            assert repeated.notes == ()


def test_what_a_preset_no_longer_sets_is_reported() -> None:
    command = parse_command([*PRESET_RUN, "decay", "--seq-length", "2048", "--lr-decay-style", "cosine"])
    assert (command.config.data.chunk_min_size, command.config.data.chunk_skip_size) == (0, 0)
    assert command.notes == (
        "with --seq-length 2048 the preset's --real-tokens-per-row 615.3 --chunk-min-size 512 --chunk-skip-size 128 "
        "do not apply",
    )


@pytest.mark.parametrize(("phase", "base"), [("pretrain", 3e-3), ("decay", 3e-3), ("cross", 1.5e-3)])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weight_decay_keeps_its_strength_under_another_optimizer(optimizer: str, phase: str, base: float) -> None:
    """A step at the largest rate decays by 3e-4 under every optimizer; adamw multiplies weight decay by the rate."""
    command = parse_command([*PRESET_RUN, phase, "--optimizer", optimizer])
    assert command.config.optimizer.weight_decay * base == pytest.approx(3e-4)
    assert "--weight-decay" in command.notes[0]
    given = parse_command([*PRESET_RUN, phase, "--optimizer", optimizer, "--weight-decay", "0.1"])
    assert given.config.optimizer.weight_decay == 0.1
    assert not any("--weight-decay" in note for note in given.notes)


def test_preset_follows_objective_and_phase_of_a_checkpoint() -> None:
    command = parse_command(["--preset", "ettin-32m", "--seed", "5"])
    assert command.config.data.seq_length == 1024
    later = command.with_preset_for("clm", "decay")
    assert (later.config.data.seq_length, later.config.model.rope_local_base) == (7999, 10_000.0)
    assert later.config.training.seed == 5
    assert "objective" not in later.given
    named = parse_command(["--preset", "ettin-32m", "--phase", "extend"]).with_preset_for("clm", "decay")
    assert named.config.training.train_tokens == 250 * 10**9


def test_a_blend_on_the_command_line() -> None:
    config = parse_command(["--data-path", "0.6", "A", "0.4", "B", "--seq-length", "128"]).config
    assert (str(config.data.data_path), config.data.seq_length) == ("0.6 A 0.4 B", 128)
    assert parse_command(["--data-path", "0.6 A 0.4 B"]).config.data == replace(config.data, seq_length=1024)


def test_launch_without_torchrun_is_one_process() -> None:
    assert Launch.from_environment({}) == Launch(0, 1)


def test_launch_under_torchrun() -> None:
    assert Launch.from_environment({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}) == Launch(3, 4)


@pytest.mark.parametrize(("rank", "world_size"), [("x", "2"), ("0", "two"), ("2", "2"), ("-1", "2"), ("0", "0")])
def test_launch_refused(rank: str, world_size: str) -> None:
    with pytest.raises(ConfigError, match=f"RANK={rank} WORLD_SIZE={world_size}: "):
        Launch.from_environment({"RANK": rank, "WORLD_SIZE": world_size})
