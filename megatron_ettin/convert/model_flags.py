"""Flags of every command line that writes models for Hugging Face."""

from __future__ import annotations

import argparse


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add what every released model can be asked to be."""
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="type of the written weights; without it the type they are stored in",
    )
    parser.add_argument(
        "--as",
        dest="relabel",
        choices=["mlm", "clm"],
        help="release as an encoder (mlm) or decoder (clm), whatever it was trained by; weights stay as they are",
    )
    parser.add_argument(
        "--base-only", action="store_true", help="leave out head and output: ModernBertModel, ModernBertDecoderModel"
    )
    parser.add_argument(
        "--license", default="unknown", metavar="ID", help="the Hub's identifier of the model's licence, for its card"
    )
