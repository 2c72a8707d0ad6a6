"""The shape of a model: everything its weights depend on."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ettin.config.options import option


@dataclass(frozen=True)
class ModelConfig:
    """Shape and constants of the ModernBERT/Ettin architecture.

    The defaults are the 17M model of the Ettin paper. An encoder and a decoder of a pair share one ModelConfig.
    """

    num_layers: int = option(7, "transformer layers", at_least=1)
    hidden_size: int = option(256, "width of the residual stream", at_least=1)
    ffn_hidden_size: int = option(384, "width of the gated MLP (each of its two halves)", at_least=1)
    num_attention_heads: int = option(4, "attention heads, which must divide --hidden-size", at_least=1)
    vocab_size: int = option(
        0, "rows of the embedding; 0 takes the tokenizer's size, rounded up to a multiple of 64", at_least=0
    )
    untie_embeddings_and_output_weights: bool = option(False, "use a separate output matrix instead of the embedding's")
    norm_epsilon: float = option(1e-5, "epsilon of every LayerNorm", above=0)
    sliding_window: int = option(128, "width of the local layers' attention window, half to each side", at_least=2)
    global_attention_every: int = option(
        3, "layer i (from 0) is global when i is a multiple of this, otherwise local", at_least=1
    )
    rope_global_base: float = option(10_000.0, "RoPE base of the global layers", above=1)
    rope_local_base: float = option(10_000.0, "RoPE base of the local layers", above=1)
    causal_window: str = option(
        "transformers",
        "how far a decoder's local layer looks back: 'transformers' as the released class computes (half the window, "
        "including the token itself), 'authors' as the paper's trainer did (half the window and the token itself)",
        choices=("transformers", "authors"),
    )
    attention_output_dropout: float = option(
        0.1, "dropout after the attention's output projection, the only dropout", at_least=0, below=1
    )
    init_std: float = option(0.02, "standard deviation of the truncated normal initialisation", above=0)
    init_cutoff: float = option(2.0, "truncate initial values at this many standard deviations", above=0)

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads
