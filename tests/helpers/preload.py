"""What the fork server imports once for all workers."""

import megatron.core.dist_checkpointing
import megatron.core.distributed
import megatron.core.optimizer
import megatron.core.pipeline_parallel
import megatron.core.transformer.transformer_block  # noqa: F401
