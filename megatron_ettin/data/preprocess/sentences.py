"""Split texts into sentences with nltk's Punkt, trained on the corpus itself or installed with nltk's data."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megatron_ettin.errors import ConfigError

LARGEST_TEXT = 1_000_000
"""Longer texts are first cut at this many characters, as in Megatron's tool."""
TRAINED_CHARACTERS = 200_000_000
"""Training stops after this many: abbreviations are common words, and Punkt counts all words in memory."""
_TRIMMED_EVERY = 10_000_000
MODEL_FILE = "punkt.json"


class SentenceSplitter:
    """Splits texts into sentences; ``fingerprint`` identifies the model."""

    def __init__(self, parameters: Any, *, keep_newlines: bool) -> None:
        """Build from Punkt's parameters; ``keep_newlines`` keeps white space between sentences with the first."""
        from nltk.tokenize.punkt import PunktSentenceTokenizer

        variables = _whitespace_kept() if keep_newlines else None
        self._punkt = PunktSentenceTokenizer(parameters, lang_vars=variables)
        self.fingerprint = hashlib.sha256(_to_json(parameters).encode()).hexdigest()

    def split(self, text: str) -> list[str]:
        """Return the sentences of a text."""
        parts = (text[start : start + LARGEST_TEXT] for start in range(0, len(text), LARGEST_TEXT))
        return [sentence for part in parts for sentence in self._punkt.tokenize(part)]


def load_splitter(folder: str, lang: str, *, keep_newlines: bool) -> SentenceSplitter:
    """Load a trained model from ``folder``, or nltk's model of a language if that is empty.

    Raises:
        ConfigError: there is no such model; the message names the command that makes one.
    """
    if folder:
        path = Path(folder) / MODEL_FILE
        if not path.is_file():
            rule = f"there is no {path}; run the command with --train-punkt to train it on the input"
            raise ConfigError(f"--punkt-model {folder}: {rule}")
        return SentenceSplitter(_from_json(path), keep_newlines=keep_newlines)
    from nltk.tokenize.punkt import PunktTokenizer

    try:
        parameters = PunktTokenizer(lang)._params
    except (LookupError, ValueError, OSError):
        rule = (
            f"nltk has no Punkt model for --lang {lang} here; add --train-punkt to train one on the input, "
            f"or download nltk's with: python -m nltk.downloader punkt_tab"
        )
        raise ConfigError(f"--split-sentences: {rule}") from None
    return SentenceSplitter(parameters, keep_newlines=keep_newlines)


def train_punkt(texts: Iterable[str], folder: str) -> None:
    """Train on the first TRAINED_CHARACTERS of the texts and save the model in ``folder``.

    Raises:
        ConfigError: there is no text.
    """
    from nltk.tokenize.punkt import PunktTrainer

    trainer = PunktTrainer()
    seen = trimmed_at = 0
    for text in texts:
        trainer.train(text[:LARGEST_TEXT], finalize=False)
        seen += len(text)
        if seen - trimmed_at > _TRIMMED_EVERY:
            trainer.freq_threshold()  # drops rare words, which fill the memory and carry no information
            trimmed_at = seen
        if seen >= TRAINED_CHARACTERS:
            break
    if not seen:
        raise ConfigError("--train-punkt: the input has no text to train on")
    trainer.finalize_training()
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    part = target / f"{MODEL_FILE}.{socket.gethostname()}-{os.getpid()}.part"  # each job of an array may train it
    part.write_text(_to_json(trainer.get_params()) + "\n", encoding="utf-8")
    part.replace(target / MODEL_FILE)


def _to_json(parameters: Any) -> str:
    """Return Punkt's parameters as JSON that is equal for equal parameters."""
    content = {
        "abbreviations": sorted(parameters.abbrev_types),
        "collocations": sorted(map(list, parameters.collocations)),
        "sentence_starters": sorted(parameters.sent_starters),
        "orthography": dict(sorted((word, flags) for word, flags in parameters.ortho_context.items() if flags)),
    }
    return json.dumps(content, ensure_ascii=False)


def _from_json(path: Path) -> Any:
    from nltk.tokenize.punkt import PunktParameters

    parameters = PunktParameters()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parameters.abbrev_types = set(content["abbreviations"])
        parameters.collocations = {(first, second) for first, second in content["collocations"]}
        parameters.sent_starters = set(content["sentence_starters"])
        parameters.ortho_context = defaultdict(int, content["orthography"])
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"--punkt-model {path.parent}: {path} is not a Punkt model that --train-punkt saved"
        ) from None
    return parameters


def _whitespace_kept() -> Any:
    """Return Punkt's language rules, changed to count white space after a sentence to that sentence."""
    from nltk.tokenize.punkt import PunktLanguageVars

    class WhitespaceKept(PunktLanguageVars):
        _period_context_fmt = PunktLanguageVars._period_context_fmt.replace(
            r"\s+(?P<next_tok>", "(?P<next_tok>"
        ).replace("(?=(?P<after_tok>", r"\s*(?=(?P<after_tok>")

    return WhitespaceKept()
