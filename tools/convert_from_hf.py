"""Import a Hugging Face model of the ModernBERT family as a checkpoint to train from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.cli import ToolParser, console_script
from megatron_ettin.config.objectives import RELEASED_OBJECTIVES


def build_parser() -> ToolParser:
    """Return the command line."""
    parser = ToolParser(
        "Write a model folder of ModernBertForMaskedLM or ModernBertDecoderForCausalLM (config.json, safetensors, "
        "tokenizer.json) as a checkpoint of step 0, with weights in fp32 for any parallel layout."
    )
    parser.add_argument("--load", required=True, type=Path, metavar="DIR", help="the model folder")
    parser.add_argument("--save", required=True, type=Path, metavar="DIR", help="the checkpoint folder to write")
    parser.add_argument(
        "--as",
        dest="relabel",
        choices=RELEASED_OBJECTIVES,
        help="train as an encoder (mlm) or decoder (clm), whatever the model is",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing checkpoint folder")
    return parser


@console_script
def main(arguments: Sequence[str]) -> int:
    """Import a model and report what was written."""
    options = build_parser().parse(arguments)
    from megatron_ettin.convert.import_model import import_model

    imported = import_model(options.load, options.save, relabel=options.relabel, overwrite=options.overwrite)
    model = imported.model
    shape = f"{model.num_layers} layers, width {model.hidden_size}, vocabulary {model.vocab_size:,}"
    print(f"{options.load} -> {options.save}: {imported.objective} model, {shape}")
    return 0


if __name__ == "__main__":
    main()
