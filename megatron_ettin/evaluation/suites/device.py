"""Where models compute."""

from __future__ import annotations

from megatron_ettin.config.errors import ConfigError


def choose_device(wanted: str) -> str:
    """Return cpu or cuda.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    if wanted == "cpu":
        return wanted
    import torch

    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ConfigError("--device cuda: torch sees no GPU here")
    return "cuda" if has_gpu else "cpu"
