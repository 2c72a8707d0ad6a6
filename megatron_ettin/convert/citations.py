"""What a released model asks to be cited: where architecture, recipe and trainer come from."""

from __future__ import annotations

CITATIONS = (
    "@article{weller2025seqvsseq,",
    "  title = {Seq vs Seq: An Open Suite of Paired Encoders and Decoders},",
    "  author = {Weller, Orion and Ricci, Kathryn and Marone, Marc and Chaffin, Antoine and Lawrie, Dawn",
    "            and Van Durme, Benjamin},",
    "  journal = {arXiv preprint arXiv:2507.11412},",
    "  year = {2025}",
    "}",
    "@article{warner2024modernbert,",
    "  title = {Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder for Fast, Memory Efficient, and Long",
    "           Context Finetuning and Inference},",
    "  author = {Warner, Benjamin and Chaffin, Antoine and Clavi{\\'e}, Benjamin and others},",
    "  journal = {arXiv preprint arXiv:2412.13663},",
    "  year = {2024}",
    "}",
    "@article{shoeybi2019megatron,",
    "  title = {Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism},",
    "  author = {Shoeybi, Mohammad and Patwary, Mostofa and Puri, Raul and LeGresley, Patrick and Casper, Jared",
    "            and Catanzaro, Bryan},",
    "  journal = {arXiv preprint arXiv:1909.08053},",
    "  year = {2019}",
    "}",
)
"""BibTeX, a line each."""
