"""The kernels of this process: PyTorch's or Transformer Engine's, chosen once, with the reason."""

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
    """Return the config with ``transformer_impl`` resolved, and a line with the reason.

    Raises:
        ConfigError: Transformer Engine is required and cannot run here, or this GPU cannot run the FP8 recipe.
    """
    backend = config.backend
    obstacle = engine_obstacle(device)
    required = backend.transformer_impl == TRANSFORMER_ENGINE or bool(backend.fp8_format)
    if required and obstacle:
        flag = spell(config, "fp8_format" if backend.fp8_format else "transformer_impl")
        raise ConfigError(f"{flag}: needs Transformer Engine, which {obstacle}")
    if backend.fp8_format:
        _check_fp8(backend, device)
    if backend.transformer_impl == "local" or obstacle:
        reason = "--transformer-impl local" if backend.transformer_impl == "local" else f"Transformer Engine {obstacle}"
        return config.with_values({"transformer_impl": "local"}), f"transformer layers: PyTorch ({reason})"
    version = importlib.import_module("transformer_engine").__version__
    reason = f"transformer layers: Transformer Engine {version}"
    return config.with_values({"transformer_impl": TRANSFORMER_ENGINE}), reason


def engine_obstacle(device: Device) -> str:
    """Return why Transformer Engine cannot run in this process, "" if it can."""
    if device.type == "cpu":
        return "needs a CUDA device"
    if importlib.util.find_spec("transformer_engine") is None:
        return "is not installed"
    try:
        importlib.import_module("transformer_engine.pytorch")
    except (ImportError, OSError, AssertionError) as error:
        return f"cannot be imported: {first_line(error)}"
    return ""


def _check_fp8(backend: BackendConfig, device: Device) -> None:
    missing = missing_hardware(backend.fp8_recipe, torch.cuda.get_device_capability(device.index))
    if missing:
        name = torch.cuda.get_device_name(device.index)
        raise ConfigError(f"--fp8-recipe {backend.fp8_recipe}: {missing}; this is {name}")


@cache
def has_windowed_varlen() -> bool:
    """Whether this torch has variable-length attention with a window."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return "window_size" in inspect.signature(varlen_attn).parameters


@cache
def has_flex() -> bool:
    """Whether this torch has FlexAttention."""
    try:
        from torch.nn.attention.flex_attention import flex_attention  # noqa: F401
    except ImportError:
        return False
    return True
