"""What is read and how it becomes rows."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ettin.config.options import option


@dataclass(frozen=True)
class DataConfig:
    """Corpus, tokenizer, rows and masking."""

    data_path: str = option("", "prefix of the .bin/.idx pair that tools/preprocess_data.py wrote", metavar="PREFIX")
    tokenizer_type: str = option("HuggingFaceTokenizer", "kind of tokenizer", choices=("HuggingFaceTokenizer",))
    tokenizer_model: str = option("", "folder with tokenizer.json, or that file", metavar="DIR")
    seq_length: int = option(1024, "positions in a row, [CLS] and [SEP] counted", at_least=8)
    packing: str = option(
        "best-fit",
        "best-fit fills each row with whole pieces of documents; none gives every piece a row of its own",
        choices=("best-fit", "none"),
    )
    real_tokens_per_row: float = option(
        0.0, "mean tokens of a row, by which --dry-run turns tokens into steps; 0 takes full rows", at_least=0
    )
    split: str = option("969,30,1", "documents for training, validation, test, as parts of the whole", metavar="A,B,C")
    mlm_probability: float = option(0.3, "share of the tokens that MLM training scores", above=0, at_most=1)
    eval_mlm_probability: float = option(0.15, "share of the tokens that MLM evaluation scores", above=0, at_most=1)
