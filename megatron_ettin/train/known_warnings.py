"""Warnings of megatron-core and torch that say nothing a user could act on."""

from __future__ import annotations

import re
import warnings

_KNOWN = (
    # The layers and the optimizer that are meant here need neither package.
    ("Transformer Engine and Apex are not installed", UserWarning),
    ("Apex is not installed. Falling back to Torch Norm", UserWarning),
    # megatron-core 0.16.1 about its own defaults and calls.
    ("full scope is deprecated. Use empty cuda_graph_scope", UserWarning),
    ("The .grad attribute of a Tensor that is not a leaf Tensor is being accessed", UserWarning),
    ("`load_state_dict` is deprecated", FutureWarning),
    ("`torch.distributed.reduce_scatter_tensor` is deprecated", FutureWarning),
    ("`torch.distributed.all_gather_into_tensor` is deprecated", FutureWarning),
)


def silence_known_warnings() -> None:
    """Keep them off the screen; must run before megatron-core is imported, which is when most are raised."""
    for beginning, category in _KNOWN:
        warnings.filterwarnings("ignore", message=re.escape(beginning), category=category)
