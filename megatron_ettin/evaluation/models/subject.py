"""The model under evaluation: its files, its kind, and loading it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.errors import ConfigError, one_line
from megatron_ettin.evaluation.models.kinds import KINDS, Kind, has_head, kind_of
from megatron_ettin.evaluation.models.source import find_model
from megatron_ettin.evaluation.models.weights import checksum_of, count_parameters, find_weight_files, read_config

__all__ = ["KINDS", "Kind", "Subject", "load_language_model", "open_subject"]

_CARD_FILE = "README.md"
_LONGEST_REASON = 300
"""Characters; some libraries list every problem of a file."""


@dataclass(frozen=True)
class Subject:
    """One model at one revision, with local files."""

    given: str
    """As on the command line: FOLDER, NAME or NAME@REVISION."""
    name: str
    """Usable as a folder name, unique for source and revision."""
    folder: Path
    """The folder that transformers loads."""
    revision: str
    """A revision such as step590532; empty for main."""
    kind: Kind
    parameters: int
    """Number of weights, a tied matrix counted once."""
    checksum: str
    """SHA-256 over the weight files, config.json and tokenizer.json."""
    has_head: bool
    """Whether the release has the prediction head; without it a model can only be fine-tuned."""

    @property
    def is_encoder(self) -> bool:
        """Whether it is bidirectional, with a masked objective in its last phase."""
        return self.kind.startswith("encoder")

    def as_dict(self) -> dict[str, Any]:
        """Return the content of OUTPUT/NAME/model.json."""
        return {**vars(self), "folder": str(self.folder)}


def open_subject(given: str) -> Subject:
    """Find a model and its properties without loading its weights.

    Raises:
        ConfigError: there is no such folder or name, the Hub cannot be reached, or it is not a language model.
    """
    source = find_model(given)
    config = read_config(source.folder)
    card = source.folder / _CARD_FILE
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    kind = kind_of(config, card=text, name=source.name)
    files = find_weight_files(source.folder)
    return Subject(
        given=given,
        name=source.name,
        folder=source.folder,
        revision=source.revision,
        kind=kind,
        parameters=count_parameters(files, is_tied=bool(config.get("tie_word_embeddings", True))),
        checksum=checksum_of(source.folder, files),
        has_head=has_head(config),
    )


def load_language_model(subject: Subject, device: str = "cpu") -> tuple[Any, Any]:
    """Return the model with its prediction head, in fp32 and evaluation mode, and its tokenizer.

    Raises:
        ConfigError: the release has no head, or weights are missing.
    """
    check_head(subject)
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    auto = AutoModelForMaskedLM if subject.is_encoder else AutoModelForCausalLM
    with loading_by_transformers(subject):
        model, loading = auto.from_pretrained(subject.folder, dtype=torch.float32, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(subject.folder)
    check_nothing_missing(subject, loading["missing_keys"])
    return model.eval().to(device), tokenizer


@contextmanager
def loading_by_transformers(subject: Subject) -> Iterator[None]:
    """Turn the errors of transformers about a model's files into one line.

    Raises:
        ConfigError: a file is missing or damaged, or the shapes of weights differ from config.json.
    """
    try:
        yield
    except ImportError:
        raise  # names the missing package
    except Exception as error:  # transformers and huggingface_hub raise a dozen types for invalid files
        reason = one_line(error)[:_LONGEST_REASON]
        if "ignore_mismatched_sizes" in reason:  # refers to a table that was logged before
            reason = "the shapes of its weights differ from config.json"
        raise ConfigError(f"--model {subject.given}: transformers cannot load it: {reason}") from error


def check_nothing_missing(subject: Subject, missing_keys: Collection[str]) -> None:
    """Raise ConfigError if transformers did not find some weights.

    A pooler, which models like BERT often leave out of their files, may be missing: no suite uses it.
    """
    if missing := sorted(key for key in missing_keys if not key.startswith("pooler.")):
        raise ConfigError(
            f"--model {subject.given}: its files lack {len(missing)} weights, {missing[0]} among them; "
            "transformers would initialise them at random"
        )


def check_head(subject: Subject) -> None:
    """Raise ConfigError if the release lacks the prediction head that a suite needs."""
    if not subject.has_head:
        raise ConfigError(
            f"--model {subject.given}: has no prediction head, which this suite needs; "
            "it can only be fine-tuned (classification, retrieval)"
        )
