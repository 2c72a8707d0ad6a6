"""A stand-in for Transformer Engine 2.11: its names, arguments and parameters, implemented in plain PyTorch.

Transformer Engine cannot be installed without CUDA. The interface between it and megatron-core and the layer specs can
be tested without its kernels: constructors and ``forward`` accept the documented arguments and refuse others,
parameters have the documented names, shapes and attributes, and FP8 is recorded instead of computed.
:func:`install_transformer_engine` must come before the first import of megatron-core.
"""

from __future__ import annotations

import enum
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VERSION = "2.11.0"


@dataclass
class AttentionCall:
    """Arguments of one call of an attention."""

    layer_number: int
    mask_type: str
    window: tuple[int, int]
    """-1 is no limit, as for the kernels."""
    lengths: tuple[int, ...]
    query: Tensor
    key: Tensor


@dataclass
class ProductCall:
    """One call of a linear module."""

    module: nn.Module
    recipe: str
    """The FP8 recipe's class, empty for none."""
    rows: int


ATTENTION_CALLS: list[AttentionCall] = []
PRODUCT_CALLS: list[ProductCall] = []


class Format(enum.Enum):
    """transformer_engine.common.recipe.Format."""

    E4M3 = "e4m3"
    HYBRID = "hybrid"


@dataclass
class DelayedScaling:
    margin: int = 0
    fp8_format: Format = Format.HYBRID
    amax_history_len: int = 1024
    amax_compute_algo: str = "max"
    override_linear_precision: tuple[bool, bool, bool] = (False, False, False)
    fp8_dpa: bool = False
    fp8_mha: bool = False
    params_dtype: Any = None
    device: Any = None


@dataclass
class Float8CurrentScaling:
    fp8_format: Format = Format.HYBRID
    fp8_dpa: bool = False


@dataclass
class Float8BlockScaling:
    fp8_format: Format = Format.E4M3


@dataclass
class MXFP8BlockScaling:
    fp8_format: Format = Format.E4M3


class FP8GlobalStateManager:
    """Whether an FP8 region is open, and under which recipe."""

    recipe: Any = None

    @classmethod
    def is_fp8_enabled(cls) -> bool:
        return cls.recipe is not None

    @classmethod
    def get_fp8_recipe(cls) -> Any:
        return cls.recipe


@contextmanager
def fp8_autocast(
    enabled: bool = True, calibrating: bool = False, fp8_recipe: Any = None, fp8_group: Any = None, _graph: bool = False
) -> Iterator[None]:
    before = FP8GlobalStateManager.recipe
    FP8GlobalStateManager.recipe = (fp8_recipe or DelayedScaling()) if enabled else None
    try:
        yield
    finally:
        FP8GlobalStateManager.recipe = before


class TransformerEngineBaseModule(nn.Module):
    """Base of all modules: an extra state, present but empty without FP8."""

    def get_extra_state(self) -> Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: Tensor | None) -> None:
        pass

    def note_product(self, rows: int) -> None:
        recipe = FP8GlobalStateManager.recipe
        PRODUCT_CALLS.append(ProductCall(self, type(recipe).__name__ if recipe is not None else "", rows))


class _Product(torch.autograd.Function):
    """A matrix product; backward adds the weight's gradient to ``main_grad`` if asked, as Transformer Engine does."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, fuse: bool) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.weight, ctx.fuse = weight, fuse
        return F.linear(inputs, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        inputs, weight = ctx.saved_tensors
        flat, rows = gradient.flatten(0, -2), inputs.flatten(0, -2)
        if not ctx.fuse:
            return gradient @ weight, flat.t() @ rows, None
        ctx.weight.main_grad.add_(flat.t() @ rows)
        ctx.weight.grad_added_to_main_grad = True
        return gradient @ weight, torch.zeros_like(weight), None


class _ParallelProduct(TransformerEngineBaseModule):
    """The weight of Linear and LayerNormLinear, this rank's part of it, and the collectives around the product."""

    def build_weight(
        self,
        in_features: int,
        out_features: int,
        parallel_mode: str | None,
        sequence_parallel: bool,
        tp_group: Any,
        tp_size: int,
        init_method: Callable[[Tensor], Any] | None,
        params_dtype: torch.dtype | None,
        device: Any,
    ) -> None:
        assert parallel_mode in (None, "row", "column")
        self.tp_group, self.tp_size = tp_group, tp_group.size() if tp_group is not None else tp_size
        self.parallel_mode = parallel_mode
        self.sequence_parallel = self.tp_size > 1 and sequence_parallel
        self.in_features = in_features // (self.tp_size if parallel_mode == "row" else 1)
        self.out_features = out_features // (self.tp_size if parallel_mode == "column" else 1)
        weight = torch.empty(self.out_features, self.in_features, dtype=params_dtype, device=device)
        self.weight = nn.Parameter(weight)
        (init_method or nn.init.normal_)(self.weight.data)
        marks = {"tensor_model_parallel": True, "partition_dim": int(parallel_mode == "row"), "partition_stride": 1}
        for name, value in marks.items():
            setattr(self.weight, name, value)

    def multiply(self, inputs: Tensor, fuse: bool) -> Tensor:
        from megatron.core.tensor_parallel import mappings

        inputs = inputs.to(self.weight.dtype)
        if self.parallel_mode == "column" and self.sequence_parallel:
            inputs = mappings.gather_from_sequence_parallel_region(inputs, group=self.tp_group)
        elif self.parallel_mode == "column":
            inputs = mappings.copy_to_tensor_model_parallel_region(inputs, group=self.tp_group)
        self.note_product(inputs.flatten(0, -2).size(0))
        out: Tensor = _Product.apply(inputs, self.weight, fuse)
        if self.parallel_mode == "row" and self.sequence_parallel:
            return mappings.reduce_scatter_to_sequence_parallel_region(out, group=self.tp_group)
        if self.parallel_mode == "row":
            return mappings.reduce_from_tensor_model_parallel_region(out, group=self.tp_group)
        return out


class Linear(_ParallelProduct):
    """transformer_engine.pytorch.Linear, without its bias."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        sequence_parallel: bool = False,
        fuse_wgrad_accumulation: bool = False,
        tp_group: Any = None,
        tp_size: int = 1,
        get_rng_state_tracker: Callable[[], Any] | None = None,
        rng_tracker_name: str | None = None,
        init_method: Callable[[Tensor], Any] | None = None,
        bias: bool = True,
        return_bias: bool = False,
        params_dtype: torch.dtype | None = None,
        parallel_mode: str | None = None,
        device: Any = "cuda",
        ub_name: str | None = None,
        delay_wgrad_compute: bool = False,
        symmetric_ar_type: str | None = None,
        save_original_input: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__()
        assert not bias
        assert not return_bias
        self.use_bias, self.fuse, self.save_original_input = bias, fuse_wgrad_accumulation, save_original_input
        self.build_weight(
            in_features, out_features, parallel_mode, sequence_parallel, tp_group, tp_size, init_method, params_dtype,
            device,
        )  # fmt: skip
        self.bias = torch.Tensor()

    def forward(self, inp: Tensor, is_first_microbatch: bool | None = None) -> Tensor:
        return self.multiply(inp, self.fuse)


class LayerNormLinear(_ParallelProduct):
    """transformer_engine.pytorch.LayerNormLinear with LayerNorm, without the product's bias."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        eps: float = 1e-5,
        sequence_parallel: bool = False,
        fuse_wgrad_accumulation: bool = False,
        tp_group: Any = None,
        tp_size: int = 1,
        get_rng_state_tracker: Callable[[], Any] | None = None,
        init_method: Callable[[Tensor], Any] | None = None,
        bias: bool = True,
        normalization: str = "LayerNorm",
        return_bias: bool = False,
        params_dtype: torch.dtype | None = None,
        parallel_mode: str | None = None,
        return_layernorm_output: bool = False,
        zero_centered_gamma: bool = False,
        device: Any = "cuda",
        ub_name: str | None = None,
        delay_wgrad_compute: bool = False,
        symmetric_ar_type: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        assert normalization == "LayerNorm"
        assert not any((bias, return_bias, zero_centered_gamma, return_layernorm_output))
        self.eps, self.use_bias, self.fuse = eps, bias, fuse_wgrad_accumulation
        self.layer_norm_weight = nn.Parameter(torch.ones(in_features, dtype=params_dtype, device=device))
        self.layer_norm_bias = nn.Parameter(torch.zeros(in_features, dtype=params_dtype, device=device))
        self.build_weight(
            in_features, out_features, parallel_mode, sequence_parallel, tp_group, tp_size, init_method, params_dtype,
            device,
        )  # fmt: skip
        self.bias = torch.Tensor()
        for parameter in (self.layer_norm_weight, self.layer_norm_bias):
            parameter.sequence_parallel = self.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, inp: Tensor, is_first_microbatch: bool | None = None) -> Tensor:
        normed = F.layer_norm(inp, self.layer_norm_weight.shape, self.layer_norm_weight, self.layer_norm_bias, self.eps)
        return self.multiply(normed, self.fuse)


class DotProductAttention(TransformerEngineBaseModule):
    """transformer_engine.pytorch.DotProductAttention for packed chunks; the whole matrix of each is computed."""

    def __init__(
        self,
        num_attention_heads: int,
        kv_channels: int | tuple[int, int],
        num_gqa_groups: int | None = None,
        attention_dropout: float = 0.0,
        qkv_format: str = "sbhd",
        attn_mask_type: str = "causal",
        window_size: tuple[int, int] | None = None,
        sequence_parallel: bool = False,
        tp_size: int = 1,
        get_rng_state_tracker: Callable[[], Any] | None = None,
        tp_group: Any = None,
        layer_number: int | None = None,
        attention_type: str = "self",
        softmax_scale: float | None = None,
        softmax_type: str = "vanilla",
    ) -> None:
        super().__init__()
        assert attention_dropout == 0.0
        assert layer_number
        self.num_heads = num_attention_heads // tp_size
        self.scale = softmax_scale or float(kv_channels if isinstance(kv_channels, int) else kv_channels[0]) ** -0.5
        self.window_size, self.layer_number = window_size, layer_number
        checked_window(attn_mask_type, window_size)

    def forward(
        self,
        query_layer: Tensor,
        key_layer: Tensor,
        value_layer: Tensor,
        attention_mask: Tensor | None = None,
        qkv_format: str | None = None,
        cu_seqlens_q: Tensor | None = None,
        cu_seqlens_kv: Tensor | None = None,
        cu_seqlens_q_padded: Tensor | None = None,
        cu_seqlens_kv_padded: Tensor | None = None,
        max_seqlen_q: int | None = None,
        max_seqlen_kv: int | None = None,
        attn_mask_type: str | None = None,
        window_size: tuple[int, int] | None = None,
        core_attention_bias_type: str = "no_bias",
        core_attention_bias: Tensor | None = None,
        num_splits: int | None = 1,
    ) -> Tensor:
        assert qkv_format == "thd"
        assert query_layer.dim() == 3
        assert query_layer.size(1) == self.num_heads
        assert attn_mask_type in ("padding", "padding_causal")
        assert cu_seqlens_q is not None
        assert cu_seqlens_q.dtype == torch.int32
        assert torch.equal(cu_seqlens_q, cu_seqlens_kv)  # type: ignore[arg-type]
        lengths = tuple(cu_seqlens_q.diff().tolist())
        assert max_seqlen_q == max_seqlen_kv == max(lengths)
        window = checked_window(attn_mask_type, window_size or self.window_size)
        call = AttentionCall(
            self.layer_number, attn_mask_type, window, lengths, query_layer.detach(), key_layer.detach()
        )
        ATTENTION_CALLS.append(call)
        chunks = zip(*(x.split(lengths) for x in (query_layer, key_layer, value_layer)), strict=True)
        return torch.cat([self.attend(q, k, v, window) for q, k, v in chunks]).flatten(1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, window: tuple[int, int]) -> Tensor:
        place = torch.arange(query.size(0))
        offset = place[None] - place[:, None]
        left, right = (limit if limit >= 0 else query.size(0) for limit in window)
        scores = torch.einsum("qnd,knd->nqk", query, key) * self.scale
        scores = scores.masked_fill((offset < -left) | (offset > right), float("-inf"))
        return torch.einsum("nqk,knd->qnd", scores.softmax(-1), value)


def checked_window(mask_type: str, window: tuple[int, int] | None) -> tuple[int, int]:
    """Return the window that goes with a mask; one that the mask would change is an error here, there a warning."""
    if "causal" in mask_type:
        assert window is None or window[1] == 0, f"{window} under {mask_type}"
        return window or (-1, 0)
    assert window is None or min(window) >= 0, f"{window} under {mask_type}"
    return window or (-1, -1)


class CudaRNGStatesTracker:
    """transformer_engine.pytorch.distributed.CudaRNGStatesTracker, which no run here uses."""

    def reset(self) -> None:
        pass


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    distribute_saved_activations: bool = False,
    get_rng_state_tracker: Callable[[], Any] | None = None,
    tp_group: Any = None,
    **kwargs: Any,
) -> Any:
    """Run a function again in backward instead of keeping what it made."""
    return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False, **kwargs)


class FusedAdam(torch.optim.Optimizer):
    """transformer_engine.pytorch.optimizers.FusedAdam as megatron-core constructs it; it is replaced before a step."""

    def __init__(self, params: Any, adam_w_mode: bool = True, **settings: Any) -> None:
        super().__init__(params, settings)


def multi_tensor_applier(function: Callable[..., Any], noop: Tensor, tensors: Any, *args: Any) -> Any:
    return function(2048 * 32, noop, tensors, *args)


def multi_tensor_l2norm(chunk: int, noop: Tensor, tensors: Any, per_tensor: bool = False) -> tuple[Tensor, None]:
    assert not per_tensor
    norms = torch.stack([tensor.float().norm() for tensor in tensors[0]])
    return norms.norm()[None], None


def multi_tensor_scale(chunk: int, noop: Tensor, tensors: Any, scale: float) -> None:
    for source, target in zip(*tensors, strict=True):
        target.copy_(source * scale)


class _Unused:
    """What megatron-core names in a class statement or an annotation, and no run here builds."""


_PYTORCH: dict[str, dict[str, Any]] = {
    "": {
        "Linear": Linear,
        "LayerNormLinear": LayerNormLinear,
        "DotProductAttention": DotProductAttention,
        "LayerNorm": _Unused,
        "RMSNorm": _Unused,
        "GroupedLinear": type("GroupedLinear", (TransformerEngineBaseModule,), {}),
        "fp8_autocast": fp8_autocast,
    },
    ".fp8": {"FP8GlobalStateManager": FP8GlobalStateManager, "fp8_autocast": fp8_autocast},
    ".distributed": {
        "CudaRNGStatesTracker": CudaRNGStatesTracker,
        "checkpoint": checkpoint,
        "activation_recompute_forward": _Unused,
        "get_all_rng_states": _Unused,
    },
    ".module": {},
    ".module.base": {"TransformerEngineBaseModule": TransformerEngineBaseModule, "get_dummy_wgrad": _Unused},
    ".ops": dict.fromkeys(("Sequential", "FusibleOperation"), _Unused),
    ".optimizers": {
        "FusedAdam": FusedAdam,
        "FusedSGD": torch.optim.SGD,
        "multi_tensor_applier": multi_tensor_applier,
        "multi_tensor_l2norm": multi_tensor_l2norm,
        "multi_tensor_scale": multi_tensor_scale,
    },
    ".router": dict.fromkeys(
        ("fused_compute_score_for_moe_aux_loss", "fused_moe_aux_loss", "fused_topk_with_score_function"), _Unused
    ),
    ".tensor": {"QuantizedTensor": _Unused},
}

_RECIPES = (Format, DelayedScaling, Float8CurrentScaling, Float8BlockScaling, MXFP8BlockScaling)


def install_transformer_engine() -> None:
    """Make ``import transformer_engine`` and what megatron-core takes from it work in this process."""
    assert "megatron.core" not in sys.modules, "megatron-core looks for Transformer Engine once"
    _add_module("transformer_engine", {"__version__": VERSION})
    _add_module("transformer_engine.common", {})
    _add_module("transformer_engine.common.recipe", {recipe.__name__: recipe for recipe in _RECIPES})
    for name, content in _PYTORCH.items():
        _add_module(f"transformer_engine.pytorch{name}", content)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def install_flash_attn() -> None:
    """Make the flash-attn package importable; call it after the import of megatron-core, which would import it."""
    _add_module("flash_attn", {})


def remove_flash_attn() -> None:
    """Undo :func:`install_flash_attn`."""
    del sys.modules["flash_attn"]


def _add_module(name: str, content: dict[str, Any]) -> None:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, loader=None, is_package=True)
    module.__path__ = []
    vars(module).update(content)
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)
