"""Which kernels this process builds layers from, decided once, with the reason."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from functools import cache

import torch

from megatron_ettin.config.backend import TRANSFORMER_ENGINE, BackendConfig, missing_hardware
from megatron_ettin.config.run import RunConfig, spell
from megatron_ettin.errors import ConfigError, first_line
from megatron_ettin.runtime.device import Device


def resolve_backend(config: RunConfig, device: Device) -> tuple[RunConfig, str]:
    """Return the run with ``transformer_impl`` decided, and a line that says why.

    Raises:
        ConfigError: Transformer Engine was asked for and cannot run here, or this GPU cannot run the FP8 recipe.
    """
    backend = config.backend
    obstacle = engine_obstacle(device)
    wanted = backend.transformer_impl == TRANSFORMER_ENGINE or bool(backend.fp8_format)
    if wanted and obstacle:
        asked = spell(config, "fp8_format" if backend.fp8_format else "transformer_impl")
        raise ConfigError(f"{asked}: needs Transformer Engine, but {obstacle}")
    if backend.fp8_format:
        _check_fp8(backend, device)
    if backend.transformer_impl == "local" or obstacle:
        reason = "asked for" if backend.transformer_impl == "local" else obstacle
        return config.with_values({"transformer_impl": "local"}), f"layers from PyTorch: {reason}"
    version = importlib.import_module("transformer_engine").__version__
    return config.with_values({"transformer_impl": TRANSFORMER_ENGINE}), f"layers from Transformer Engine {version}"


def engine_obstacle(device: Device) -> str:
    """Return why Transformer Engine cannot run in this process, or nothing."""
    if device.type == "cpu":
        return "it runs on CUDA devices only"
    if importlib.util.find_spec("transformer_engine") is None:
        return "it is not installed"
    try:
        importlib.import_module("transformer_engine.pytorch")
    except (ImportError, OSError, AssertionError) as error:
        return f"it cannot be imported: {first_line(error)}"
    return ""


def _check_fp8(backend: BackendConfig, device: Device) -> None:
    lacking = missing_hardware(backend.fp8_recipe, torch.cuda.get_device_capability(device.index))
    if lacking:
        name = torch.cuda.get_device_name(device.index)
        raise ConfigError(f"--fp8-recipe {backend.fp8_recipe}: {lacking}; this is {name}")


@cache
def has_windowed_varlen() -> bool:
    """Whether it has variable-length attention that takes a window."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return "window_size" in inspect.signature(varlen_attn).parameters


@cache
def has_flex() -> bool:
    """Whether it has FlexAttention."""
    try:
        from torch.nn.attention.flex_attention import flex_attention  # noqa: F401
    except ImportError:
        return False
    return True
