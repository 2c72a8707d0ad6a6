"""What the fork server imports once for all workers."""

import importlib

from megatron_ettin.runtime.cpu_placement import import_core

import_core()
for name in (
    "megatron.core.dist_checkpointing",
    "megatron.core.optimizer",
    "megatron.core.pipeline_parallel",
    "megatron.core.transformer.transformer_block",
):
    importlib.import_module(name)
