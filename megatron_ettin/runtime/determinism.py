"""Kernels that give the same bits every time."""

from __future__ import annotations

import os

import torch


def be_deterministic() -> None:
    """Let this process use no other kernels; must come before its first product on a GPU."""
    # cuBLAS reads the first when it starts, Transformer Engine the second when it is imported.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] = "0"
    torch.use_deterministic_algorithms(True)
