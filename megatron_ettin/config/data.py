"""Corpora, and how they become rows and masks."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ettin.config.options import option
from megatron_ettin.config.sources import Sources
from megatron_ettin.config.value_types import MaskSchedule, Split


@dataclass(frozen=True)
class DataConfig:
    """Corpus, tokenizer, rows and masking."""

    data_path: Sources = option(
        Sources(""),
        "prefix of the .bin/.idx pair that tools/preprocess_data.py wrote, or several: WEIGHT PREFIX WEIGHT PREFIX ... "
        "(parts of the rows), TOKENS PREFIX ... with a suffix as 5B (targets), PREFIX PREFIX ... (all rows of each)",
        metavar="PREFIX",
    )
    data_cache_path: str = option(
        "", "folder for the indices built from corpora; default PREFIX.cache for large ones", metavar="DIR"
    )
    accept_data_change: bool = option(
        False, "go on from --load although what decides the order of its data has changed; run.json records it"
    )
    tokenizer_type: str = option("HuggingFaceTokenizer", "kind of tokenizer", choices=("HuggingFaceTokenizer",))
    tokenizer_model: str = option("", "folder with tokenizer.json, or that file", metavar="DIR")
    seq_length: int = option(1024, "positions in a row, [CLS] and [SEP] counted", at_least=8)
    packing: str = option(
        "best-fit",
        "best-fit fills each row with whole chunks of documents; none gives every chunk a row of its own",
        choices=("best-fit", "none"),
    )
    chunk_size: int = option(
        0, "positions of a chunk of a longer document, [CLS] and [SEP] counted; 0 is --seq-length", at_least=0
    )
    chunk_min_size: int = option(
        0, "a document's last chunk shorter than this takes tokens from the end of the one before", at_least=0
    )
    chunk_skip_size: int = option(
        0, "a document's last chunk shorter than this is left out, unless it is its only one", at_least=0
    )
    chunk_at_sentences: bool = option(False, "cut long documents behind sentences; reads the whole corpus once")
    close_every_piece: bool = option(
        False, "put [SEP] behind every chunk of a decoder's documents, as behind an encoder's, not only where one ends"
    )
    real_tokens_per_row: float = option(
        0.0, "mean tokens of a row, by which --dry-run turns tokens into steps; 0 takes full rows", at_least=0
    )
    split: Split = option(
        Split.parse("969,30,1"), "documents for training, validation, test, as parts of the whole", metavar="A,B,C"
    )
    split_by: str = option(
        "range",
        "range splits by the order of the documents, as Megatron does; hash by the corpus's name and the document's "
        "number, so that a document stays in its split when others are added",
        choices=("range", "hash"),
    )
    mlm_probability: float = option(0.3, "share of the tokens that MLM training scores", above=0, at_most=1)
    eval_mlm_probability: float = option(0.15, "share of the tokens that MLM evaluation scores", above=0, at_most=1)
    mlm_probability_schedule: MaskSchedule = option(
        MaskSchedule(""), "the same by tokens trained, instead: 0:0.3,250B:0.15", metavar="TOKENS:SHARE,..."
    )
    masking: str = option(
        "token",
        "what MLM chooses: single tokens, whole words, or spans of a geometric length",
        choices=("token", "whole-word", "span"),
    )
    mask_span_length: float = option(3.0, "mean tokens of a span with --masking span", above=1)

    def mask_ratio(self, tokens: int) -> float:
        """Return the share of tokens to mask in a step that starts after ``tokens`` trained tokens."""
        schedule = self.mlm_probability_schedule
        return schedule.share_at(tokens) if schedule else self.mlm_probability

    @property
    def largest_mask_ratio(self) -> float:
        """The largest share that a run masks, which memory must allow for."""
        return max(self.mlm_probability_schedule.shares, default=self.mlm_probability)
