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
        "(shares of the rows), TOKENS PREFIX ... with a suffix as 5B (targets), PREFIX PREFIX ... (all rows of each)",
        metavar="PREFIX",
    )
    data_cache_path: str = option(
        "", "folder for indices built from corpora; default PREFIX.cache for large corpora", metavar="DIR"
    )
    accept_data_change: bool = option(
        False, "resume from --load even though its training order has changed; run.json records the change"
    )
    tokenizer_type: str = option("HuggingFaceTokenizer", "kind of tokenizer", choices=("HuggingFaceTokenizer",))
    tokenizer_model: str = option("", "folder with tokenizer.json, or that file", metavar="DIR")
    seq_length: int = option(1024, "positions in a row, including [CLS] and [SEP]", at_least=8)
    packing: str = option(
        "best-fit",
        "best-fit packs several chunks of documents into each row; none gives every chunk its own row",
        choices=("best-fit", "none"),
    )
    chunk_size: int = option(
        0, "positions in a chunk of a long document, including [CLS] and [SEP]; 0 is --seq-length", at_least=0
    )
    chunk_min_size: int = option(
        0, "a last chunk shorter than this takes tokens from the end of the previous chunk", at_least=0
    )
    chunk_skip_size: int = option(
        0, "a last chunk shorter than this is dropped, unless it is the document's only one", at_least=0
    )
    chunk_at_sentences: bool = option(False, "cut long documents after sentences; reads the whole corpus once")
    close_every_piece: bool = option(
        False, "put [SEP] after every chunk of a decoder's documents, as for an encoder, not only after the last"
    )
    data_version: int = option(
        2,
        "1 repeats runs from before this setting: phases that share a seed share their masks, a decoder's [SEP] also "
        "follows a document whose remainder was dropped, and --eval-iters scores the first packed rows, which have the "
        "longest documents",
        metavar="N",
        at_least=1,
        at_most=2,
    )
    real_tokens_per_row: float = option(
        0.0, "mean tokens of a row, with which --dry-run converts tokens to steps; 0 assumes full rows", at_least=0
    )
    split: Split = option(
        Split.parse("969,30,1"), "proportions of training, validation and test documents", metavar="A,B,C"
    )
    split_by: str = option(
        "range",
        "range splits by document order, as Megatron does; hash by corpus name and document number, so that a document "
        "stays in its split when others are added",
        choices=("range", "hash"),
    )
    mlm_probability: float = option(0.3, "share of the tokens to mask in training", above=0, at_most=1)
    eval_mlm_probability: float = option(0.15, "share of the tokens to mask in evaluation", above=0, at_most=1)
    mlm_probability_schedule: MaskSchedule = option(
        MaskSchedule(""),
        "share to mask by tokens trained, instead of --mlm-probability: 0:0.3,250B:0.15",
        metavar="TOKENS:SHARE,...",
    )
    masking: str = option(
        "token",
        "units to mask: single tokens, whole words, or spans of geometric length",
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
