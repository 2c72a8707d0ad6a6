"""Preflight refuses wrong files and completes the config from them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ettin.checkpoint.folder.integrity import mark_complete
from megatron_ettin.checkpoint.folder.layout import step_folder_name
from megatron_ettin.config.command_line import parse_command
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import write_json_atomic
from megatron_ettin.train.preflight import inputs
from megatron_ettin.train.preflight.prepare import PreparedRun, prepare_run
from tests.helpers.corpora import open_corpus

SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
WORDS = 95
TOKENIZER_SIZE = len(SPECIAL) + WORDS


def write_tokenizer(folder: Path, special: Sequence[str] = SPECIAL) -> Path:
    """Write a tokenizer.json of whole words."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordLevel

    names = [*special, *(f"w{number}" for number in range(TOKENIZER_SIZE - len(special)))]
    tokenizer = Tokenizer(WordLevel({name: index for index, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_corpus(prefix: Path, documents: Sequence[Any]) -> Path:
    """Write Megatron's .bin/.idx by hand: uint16 tokens, one sequence a document."""
    sizes = np.array([len(document) for document in documents], dtype=np.int32)
    pointers = np.concatenate([[0], np.cumsum(sizes[:-1], dtype=np.int64)]) * 2 if len(sizes) else np.array([])
    flat = np.concatenate([np.array(document, dtype=np.uint16) for document in documents])
    Path(f"{prefix}.bin").write_bytes(flat.tobytes())
    header = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, len(sizes), len(sizes) + 1)
    ends = np.arange(len(sizes) + 1, dtype=np.int64)
    Path(f"{prefix}.idx").write_bytes(header + sizes.tobytes() + pointers.astype(np.int64).tobytes() + ends.tobytes())
    return prefix


def write_checkpoint(save: Path, step: int = 5, **values: Any) -> Path:
    """Write a complete checkpoint folder of a small MLM run, without its tensors."""
    settings = {"num_layers": 4, "hidden_size": 64, "ffn_hidden_size": 96, "vocab_size": 128, "seq_length": 256}
    config = RunConfig().with_values({"objective": "mlm", **settings, **values})
    folder = save / step_folder_name(step)
    write_tokenizer(folder / "tokenizer")
    run_json = {"format_version": 1, "step": step, "objective": config.training.objective, "config": config.to_dict()}
    write_json_atomic(folder / "run.json", run_json)
    mark_complete(folder)
    return folder


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """The flags of a run with all its files."""
    rng = np.random.default_rng(0)
    documents = [rng.integers(5, TOKENIZER_SIZE, 20) for _ in range(100)]
    return {
        "--objective": "mlm",
        "--train-iters": "10",
        "--save": str(tmp_path / "save"),
        "--tokenizer-model": str(write_tokenizer(tmp_path / "tokenizer")),
        "--data-path": str(write_corpus(tmp_path / "corpus", documents)),
    }


def prepare(flags: dict[str, str], *more: str) -> PreparedRun:
    return prepare_run(parse_command([*(word for pair in flags.items() for word in pair), *more]), world_size=1)


def refusal(flags: dict[str, str], *more: str) -> str:
    with pytest.raises(ConfigError) as refused:
        prepare(flags, *more)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_vocabulary_is_the_tokenizers_rounded_up(files: dict[str, str]) -> None:
    assert prepare(files).config.model.vocab_size == 128
    assert prepare({**files, "--vocab-size": "100"}).config.model.vocab_size == 100


def test_nothing_is_written(files: dict[str, str], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    prepare(files)
    assert sorted(tmp_path.rglob("*")) == before


def test_tokenizer_may_be_given_as_its_file(files: dict[str, str]) -> None:
    as_file = str(Path(files["--tokenizer-model"]) / "tokenizer.json")
    assert prepare({**files, "--tokenizer-model": as_file}).config.model.vocab_size == 128


def test_a_dry_run_needs_no_files_and_assumes_the_published_vocabulary() -> None:
    prepared = prepare({"--objective": "mlm"}, "--dry-run")
    assert prepared.config.model.vocab_size == 50_368
    assert prepared.notes == ("vocabulary: the published 50,368 (no --tokenizer-model or --vocab-size)",)


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"--tokenizer-model": "/no/such"}, "--tokenizer-model /no/such: there is no /no/such"),
        ({"--data-path": "/no/such"}, "--data-path /no/such: there is no file /no/such.idx"),
        ({"--vocab-size": "99"}, "--vocab-size 99: --tokenizer-model"),
        ({"--split": "0.001,99.999,0"}, "leaves no document for training"),
        ({"--save": "/dev/null/run"}, "--save /dev/null/run: /dev/null is a file, not a folder"),
    ],
)
def test_refused_in_training_and_dry_run(
    files: dict[str, str], dry_run: Sequence[str], flags: dict[str, str], message: str
) -> None:
    assert message in refusal({**files, **flags}, *dry_run)


def test_data_path_with_a_suffix(files: dict[str, str]) -> None:
    assert "omit the .bin suffix" in refusal({**files, "--data-path": files["--data-path"] + ".bin"})


def test_index_without_tokens(files: dict[str, str]) -> None:
    Path(files["--data-path"] + ".bin").unlink()
    assert "there is no file" in refusal(files)


@pytest.mark.parametrize("part", [".bin", ".idx"])
def test_truncated_corpus(files: dict[str, str], part: str) -> None:
    path = Path(files["--data-path"] + part)
    path.write_bytes(path.read_bytes()[:-2])
    assert files["--data-path"] in refusal(files)


@pytest.mark.parametrize(
    ("objective", "missing", "accepted"),
    [("mlm", "[MASK]", False), ("clm", "[MASK]", True), ("clm", "[CLS]", False), ("mlm", "[SEP]", False)]
    + [(objective, "[PAD]", False) for objective in ("mlm", "clm")],
)
def test_special_tokens_that_the_objective_needs(
    files: dict[str, str], tmp_path: Path, objective: str, missing: str, accepted: bool
) -> None:
    tokenizer = write_tokenizer(tmp_path / "other", [name for name in SPECIAL if name != missing])
    flags = {**files, "--objective": objective, "--tokenizer-model": str(tokenizer)}
    if accepted:
        prepare(flags)
    else:
        assert f"has no {missing} token, which --objective {objective} needs" in refusal(flags)


def test_token_ids_beyond_the_tokenizer(files: dict[str, str], tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "other", [[5, 6], [7, TOKENIZER_SIZE, 8]] * 20)
    message = refusal({**files, "--data-path": str(corpus)})
    assert message.startswith(f"--data-path {corpus}: contains token id 100, and --tokenizer-model")
    assert "has 100 tokens" in message


def test_largest_token_of_a_corpus_that_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_BLOCK_TOKENS", 10)
    monkeypatch.setattr(inputs, "SCANNED_TOKENS", 50)
    tokens = np.arange(1005)
    for document, largest in (
        (tokens, 1004),  # the first and the last block are always read
        (tokens[::-1], 1004),
        (tokens[:50][::-1], 49),
        (tokens[:0], -1),
    ):
        assert inputs.largest_token(open_corpus([document])) == largest


class TestLoading:
    """Runs that start from a checkpoint."""

    def test_shape_objective_and_tokenizer_come_from_the_checkpoint(
        self, files: dict[str, str], tmp_path: Path
    ) -> None:
        folder = write_checkpoint(tmp_path / "old", rope_global_base=160_000.0)
        config = prepare({"--load": str(tmp_path / "old"), "--data-path": files["--data-path"]}, "--eval-only").config
        assert (config.model.num_layers, config.model.hidden_size, config.model.vocab_size) == (4, 64, 128)
        assert config.model.rope_global_base == 160_000.0
        assert config.training.objective == "mlm"
        assert config.data.seq_length == 256
        assert config.data.tokenizer_model == str(folder / "tokenizer")

    def test_given_values_that_agree_are_accepted(self, files: dict[str, str], tmp_path: Path) -> None:
        write_checkpoint(tmp_path / "old")
        same = {"--num-layers": "4", "--hidden-size": "64", "--vocab-size": "128", "--objective": "mlm"}
        prepare({**files, **same, "--load": str(tmp_path / "old")})
        prepare({**files, "--vocab-size": "0", "--load": str(tmp_path / "old")})

    @pytest.mark.parametrize(
        ("flag", "value", "trained"),
        [
            ("--num-layers", "7", "--num-layers 4"),
            ("--hidden-size", "128", "--hidden-size 64"),
            ("--num-attention-heads", "2", "--num-attention-heads 4"),
            ("--vocab-size", "192", "--vocab-size 128"),
            ("--sliding-window", "64", "--sliding-window 128"),
            ("--objective", "clm", "--objective mlm"),
        ],
    )
    def test_another_shape_or_objective_is_refused(
        self, files: dict[str, str], tmp_path: Path, flag: str, value: str, trained: str
    ) -> None:
        folder = write_checkpoint(tmp_path / "old")
        message = refusal({**files, flag: value, "--load": str(tmp_path / "old")})
        assert message.startswith(f"{flag} {value}: the checkpoint in {folder} was trained with {trained}")

    def test_refusal_names_the_origin_of_a_value(self, files: dict[str, str], tmp_path: Path) -> None:
        write_checkpoint(tmp_path / "old")
        config = tmp_path / "run.yaml"
        config.write_text("hidden_size: 128\n")
        flags = {**files, "--load": str(tmp_path / "old")}
        assert f"--hidden-size 128 (from --config {config}): " in refusal({**flags, "--config": str(config)})
        assert "--hidden-size 192 (from --preset nano): " in refusal({**flags, "--preset": "nano"})

    def test_a_resumed_phase_keeps_its_residual_type_under_a_newer_preset(
        self, files: dict[str, str], tmp_path: Path
    ) -> None:
        """Without the setting in its run.json, or with its default, a checkpoint has a bf16 residual stream."""
        write_checkpoint(tmp_path / "old")
        shape = {"--num-layers": "4", "--hidden-size": "64", "--ffn-hidden-size": "96", "--num-attention-heads": "4"}
        flags = {**files, **shape, "--vocab-size": "128", "--preset": "ettin-17m", "--load": str(tmp_path / "old")}
        resumed = prepare(flags, "--bf16")
        assert not resumed.config.training.widens_residual
        assert any("--no-fp32-residual-connection" in note for note in resumed.notes)
        assert prepare(flags, "--bf16", "--fp32-residual-connection").config.training.widens_residual
        assert prepare({**flags, "--phase": "extend"}, "--bf16").config.training.widens_residual

    def test_a_resume_without_flags_keeps_what_its_checkpoint_implies(
        self, files: dict[str, str], tmp_path: Path
    ) -> None:
        """Without --objective and --phase, the same phase continues."""
        write_checkpoint(tmp_path / "old", data_version=1)
        flags = {name: value for name, value in files.items() if name != "--objective"}
        flags["--load"] = str(tmp_path / "old")
        assert prepare(flags).config.data.data_version == 1
        shape = {"--num-layers": "4", "--hidden-size": "64", "--ffn-hidden-size": "96", "--num-attention-heads": "4"}
        preset = {**flags, **shape, "--vocab-size": "128", "--preset": "ettin-17m"}
        assert not prepare(preset, "--bf16").config.training.widens_residual
        assert prepare(flags, "--data-version", "2").config.data.data_version == 2
        assert prepare({**flags, "--phase": "decay"}).config.data.data_version == 2

    def test_a_resume_keeps_the_size_of_its_validations(self, files: dict[str, str], tmp_path: Path) -> None:
        """Unless the user sets one in either unit; what only a preset sets does not change them."""
        write_checkpoint(tmp_path / "old", data_version=1, eval_iters=30)
        flags = {**files, "--load": str(tmp_path / "old")}
        shape = {"--num-layers": "4", "--hidden-size": "64", "--ffn-hidden-size": "96", "--num-attention-heads": "4"}
        preset = {**flags, **shape, "--vocab-size": "128", "--preset": "ettin-17m"}
        for given, expected in (
            (flags, (30, 0, 1)),
            (preset, (30, 0, 1)),
            ({**preset, "--eval-tokens": "1M"}, (0, 10**6, 1)),
            ({**preset, "--eval-iters": "0"}, (0, 0, 1)),
            ({**preset, "--phase": "extend"}, (0, 250 * 10**6, 2)),
            ({**flags, "--phase": "extend"}, (100, 0, 2)),
        ):
            config = prepare(given).config
            assert (config.training.eval_iters, config.training.eval_tokens, config.data.data_version) == expected
        (note,) = (note for note in prepare(preset).notes if note.startswith("inherited"))
        assert "--data-version 1" in note
        assert "--eval-iters 30 --eval-tokens 0" in note
        write_checkpoint(tmp_path / "new", eval_iters=0, eval_tokens=5000)
        for given, expected_tokens in (({}, (0, 5000)), ({"--eval-iters": "9"}, (9, 0))):
            training = prepare({**files, **given, "--load": str(tmp_path / "new")}).config.training
            assert (training.eval_iters, training.eval_tokens) == expected_tokens

    def test_a_later_phase_may_change_settings_other_than_the_shape(
        self, files: dict[str, str], tmp_path: Path
    ) -> None:
        write_checkpoint(tmp_path / "old")
        changes = {"--rope-global-base": "160000", "--seq-length": "512"}
        config = prepare({**files, **changes, "--load": str(tmp_path / "old")}).config
        assert (config.model.rope_global_base, config.data.seq_length) == (160_000.0, 512)
        assert config.model.hidden_size == 64

    def test_a_tokenizer_larger_than_the_checkpoints_vocabulary(self, files: dict[str, str], tmp_path: Path) -> None:
        write_checkpoint(tmp_path / "old", vocab_size=64)
        assert "--vocab-size 64: --tokenizer-model" in refusal({**files, "--load": str(tmp_path / "old")})

    def test_missing_checkpoint(self, files: dict[str, str], tmp_path: Path) -> None:
        assert "--load" in refusal({**files, "--load": str(tmp_path / "none")})
        assert "--load-step 6" in refusal(
            {**files, "--load": str(write_checkpoint(tmp_path / "old").parent), "--load-step": "6"}
        )

    def test_one_command_line_starts_and_resumes(self, files: dict[str, str]) -> None:
        flags = {**files, "--load": files["--save"]}
        first = prepare(flags)
        assert first.config.checkpoint.load == ""
        assert "starts with new weights" in first.notes[0]
        write_checkpoint(Path(files["--save"]))
        later = prepare(flags)
        assert later.config.checkpoint.load == files["--save"]
        assert later.config.model.hidden_size == 64

    def test_evaluation_never_starts_with_new_weights(self, files: dict[str, str]) -> None:
        assert "--load" in refusal({**files, "--load": files["--save"]}, "--eval-only")

    def test_evaluation_needs_a_validation_document(self, files: dict[str, str], tmp_path: Path) -> None:
        write_checkpoint(tmp_path / "old")
        flags = {**files, "--load": str(tmp_path / "old"), "--split": "99.999,0.001,0"}
        assert "leaves no document for validation" in refusal(flags, "--eval-only")

    def test_invalid_config_in_run_json(self, files: dict[str, str], tmp_path: Path) -> None:
        folder = write_checkpoint(tmp_path / "old")
        (folder / "complete.json").unlink()
        write_json_atomic(folder / "run.json", {"format_version": 1, "config": {"model": {"hidden_size": "wide"}}})
        mark_complete(folder)
        message = refusal({**files, "--load": str(tmp_path / "old")})
        assert message.startswith("--hidden-size wide (run.json of --load")
