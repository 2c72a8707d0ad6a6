"""What the fork server imports once for all processes."""

import importlib

from megatron_ettin.runtime.cpu_placement import import_core

import_core()
for name in (
    "megatron_ettin.train.launch",
    "megatron_ettin.train.run",
    "tests.helpers.training",
    # What torch and megatron-core import when they are first used.
    "torch._dynamo",
    "torch.utils.tensorboard",
    "megatron.core.models.backends",
    "megatron.core.transformer.multi_token_prediction",
    "transformers.models.modernbert.modeling_modernbert",
    "transformers.models.modernbert_decoder.modeling_modernbert_decoder",
    "matplotlib.pyplot",
    "pyarrow.parquet",
    "safetensors.torch",
):
    importlib.import_module(name)
