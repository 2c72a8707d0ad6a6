"""Rules between the settings of a run: what is refused by name, and what is accepted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ettin.config.checks import check_backend, check_data, check_run
from megatron_ettin.config.presets import PRESETS, preset_values
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.training import PHASES
from megatron_ettin.errors import ConfigError
from tests.helpers.runs import TINY, tiny_run

COMPLETE = {
    "objective": "mlm",
    "data_path": "corpus_text_document",
    "tokenizer_model": "tokenizer",
    "save": "runs/a",
    "train_iters": 100,
}
FP8: dict[str, Any] = {"fp8_format": "hybrid", "bf16": True, "device": "cuda"}
WIDE = replace(TINY, hidden_size=128, ffn_hidden_size=192)


def complete_run(**values: Any) -> RunConfig:
    return RunConfig().with_values({**COMPLETE, **values})


def refusal(config: RunConfig, world_size: int = 1, *, planning: bool = False) -> str:
    with pytest.raises(ConfigError) as refused:
        check_run(config, world_size, planning=planning)
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("values", "world_size"),
    [
        ({}, 1),
        ({"objective": "clm"}, 8),
        ({"tensor_model_parallel_size": 2, "sequence_parallel": True}, 4),
        ({"pipeline_model_parallel_size": 7, "global_batch_size": 3}, 7),
        ({"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2, "use_distributed_optimizer": True}, 8),
        ({"micro_batch_size": 4, "global_batch_size": 24}, 3),
        ({"optimizer": "muon", "pipeline_model_parallel_size": 2}, 4),
        ({"optimizer": "stable_adamw", "tensor_model_parallel_size": 2, "use_distributed_optimizer": True}, 4),
        ({"lr_warmup_iters": 10, "lr_wsd_decay_iters": 90}, 1),
        ({"lr_decay_style": "cosine", "lr_warmup_iters": 100, "lr_decay_iters": 1000}, 1),
        ({"lr": 0.0}, 1),
        ({"train_iters": 0, "train_tokens": 1000, "lr_warmup_tokens": 100, "lr_wsd_decay_tokens": 900}, 1),
        ({"lr_decay_style": "linear", "lr_decay_tokens": 1000}, 1),
        ({"lr_warmup_tokens": 1000}, 1),
        ({"eval_only": True, "load": "runs/a", "save": "", "train_iters": 0, "split": "0,100,0"}, 3),
        ({"split": "100,0,0"}, 1),
    ],
)
def test_accepted(values: dict[str, Any], world_size: int) -> None:
    check_run(complete_run(**values), world_size)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("tp", [1, 2])
def test_presets_are_accepted(preset: str, tp: int) -> None:
    for phase in PHASES:
        settings = preset_values(preset, "mlm", phase) | {"tensor_model_parallel_size": tp}
        if "train_tokens" in settings:
            settings |= {"train_iters": 0, "eval_interval": 0, "eval_iters": 0}
        check_run(complete_run(**settings), 2)


@pytest.mark.parametrize(
    ("values", "world_size", "message"),
    [
        (
            {"hidden_size": 100, "num_attention_heads": 3},
            1,
            "--hidden-size 100: must be a multiple of --num-att",
        ),
        ({"hidden_size": 12}, 1, "--hidden-size 12: with --num-attention-heads 4 gives heads of 3, which RoPE"),
        ({"sliding_window": 33}, 1, "--sliding-window 33: must be even"),
        ({"tensor_model_parallel_size": 3}, 3, "--num-attention-heads 4: must be a multiple of --tensor"),
        ({"ffn_hidden_size": 7, "tensor_model_parallel_size": 2}, 2, "--ffn-hidden-size 7: must be a multiple of"),
        ({"pipeline_model_parallel_size": 8}, 8, "--pipeline-model-parallel-size 8: each stage needs a layer"),
        ({"tensor_model_parallel_size": 2}, 3, "--pipeline-model-parallel-size 1: one model takes 2 ranks"),
        ({"tensor_model_parallel_size": 2}, 1, "--nnodes), 1, is not a multiple of that"),
        ({"sequence_parallel": True}, 2, "--sequence-parallel: needs 2 or more tensor-parallel ranks"),
        ({"overlap_param_gather": True}, 1, "--overlap-param-gather: needs --use-distributed-optimizer and"),
        ({"context_parallel_size": 2}, 2, "--context-parallel-size 2: context parallelism is not supported"),
        ({"num_layers_per_virtual_pipeline_stage": 1}, 2, "the interleaved pipeline is not supported"),
        ({"use_torch_fsdp2": True}, 2, "--use-torch-fsdp2: FSDP is not supported"),
        ({"micro_batch_size": 3}, 1, "--global-batch-size 8: must be a multiple of --micro-batch-size 3 x 1"),
        ({"global_batch_size": 8}, 3, "must be a multiple of --micro-batch-size 1 x 3 data-parallel ranks = 3"),
        ({"global_batch_tokens": 1023}, 1, "--global-batch-tokens 1023: must be at least one row, --seq-length 1024"),
        ({"micro_batch_tokens": 1023}, 1, "--micro-batch-tokens 1023: must be at least one row, --seq-length 1024"),
        ({"batch_warmup_start": 4}, 1, "--batch-warmup-start 4: needs --batch-warmup-tokens"),
        (
            {"batch_warmup_start": 9, "batch_warmup_tokens": 100},
            1,
            "--batch-warmup-start 9: must be at most the full batch",
        ),
        ({"min_lr": 1.0}, 1, "--min-lr 1.0: must not exceed the peak, --lr 0.003"),
        ({"lr_decay_style": "cosine", "lr_wsd_decay_iters": 5}, 1, "needs --lr-decay-style WSD"),
        ({"lr_warmup_iters": 101}, 1, "must not be longer than the schedule, --train-iters 100"),
        ({"lr_warmup_iters": 60, "lr_wsd_decay_iters": 50}, 1, "and --lr-warmup-iters 60 together"),
        ({"lr_warmup_iters": 60, "lr_decay_iters": 50}, 1, "the schedule, --lr-decay-iters 50"),
        ({"train_tokens": 5}, 1, "--train-tokens 5: and --train-iters 100 set the same duration; give one of them"),
        ({"save_interval": 5, "save_interval_tokens": 8_500_000_000}, 1, "--save-interval-tokens 8.5B: and"),
        ({"lr_warmup_iters": 5, "lr_decay_tokens": 50}, 1, "--lr-warmup-iters 5: and --lr-decay-tokens 50: the"),
        (
            {"lr_warmup_tokens": 5, "lr_decay_style": "linear"},
            1,
            "--train-iters 100: does not define the end of a",
        ),
        ({"train_iters": 0, "train_tokens": 9, "lr_warmup_tokens": 10}, 1, "than the schedule, --train-tokens 9"),
        ({"optimizer": "stable_adamw", "lr": 0.0}, 1, "--lr 0.0: must be above 0 with --optimizer stable_adamw"),
        ({"max_lr": 0.1}, 1, "--max-lr 0.1: needs --optimizer stable_adamw; got --optimizer adamw"),
        (
            {"optimizer": "muon", "tensor_model_parallel_size": 2},
            2,
            "--optimizer muon: needs full matrices, and --tensor-model-parallel-size 2 splits them",
        ),
        ({"optimizer": "muon", "use_distributed_optimizer": True}, 2, "and --use-distributed-optimizer splits them"),
        ({"split": "969,30,1,1"}, 1, "--split 969,30,1,1: must be up to three parts"),
        ({"split": "0,100,0"}, 1, "--split 0,100,0: the training part is 0"),
        ({"split": "100,0,0", "eval_only": True, "load": "x"}, 1, "--split 100,0,0: the validation part is 0"),
        ({"objective": ""}, 1, "--objective is missing"),
        ({"data_path": ""}, 1, "--data-path is missing"),
        ({"tokenizer_model": ""}, 1, "--tokenizer-model is missing"),
        ({"save": ""}, 1, "--save is missing"),
        ({"train_iters": 0}, 1, "--train-iters is missing"),
        ({"eval_only": True}, 1, "--eval-only needs --load"),
        ({"load_step": 5}, 1, "--load-step 5: needs --load"),
        ({"attention_output_dropout": 1.0}, 1, "--attention-output-dropout 1.0: must be below 1"),
        ({"micro_batch_size": 0}, 1, "--micro-batch-size 0: must be at least 1"),
        ({"causal_window": "none"}, 1, "--causal-window none: must be one of transformers"),
    ],
)
def test_refused(values: dict[str, Any], world_size: int, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_run(complete_run(**values), world_size)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_planning_needs_no_corpus_folder_or_duration() -> None:
    check_run(RunConfig().with_values({"objective": "mlm"}), 1, planning=True)


def test_planning_needs_an_objective_and_a_valid_shape() -> None:
    assert refusal(RunConfig(), planning=True).startswith("--objective is missing")
    unsound = complete_run(hidden_size=100, num_attention_heads=3)
    assert "must be a multiple of" in refusal(unsound, planning=True)


sizes = st.sampled_from([1, 2, 3, 4, 6, 8])


@given(tp=sizes, pp=sizes, world=st.integers(1, 48), micro=sizes, batch=st.integers(1, 64), heads=sizes)
def test_accepted_layouts_divide_evenly(tp: int, pp: int, world: int, micro: int, batch: int, heads: int) -> None:
    config = complete_run(
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        micro_batch_size=micro,
        global_batch_size=batch,
        num_attention_heads=heads,
        hidden_size=48,
    )
    divides = world % (tp * pp) == 0 and pp <= 7 and heads % tp == 0 and 384 % tp == 0
    divides = divides and (48 // heads) % 2 == 0 and batch % (micro * max(1, world // (tp * pp))) == 0
    try:
        check_run(config, world)
    except ConfigError:
        assert not divides
    else:
        assert divides


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"transformer_impl": "transformer_engine"},
            "--transformer-impl transformer_engine: needs a CUDA device; got --device cpu",
        ),
        ({**FP8, "transformer_impl": "local"}, "--fp8-format hybrid: needs Transformer Engine's layers"),
        ({**FP8, "bf16": False}, "--fp8-format hybrid: needs --bf16"),
        ({**FP8, "fp8_recipe": "delayed", "first_last_layers_bf16": True}, "--first-last-layers-bf16: needs another"),
        ({"first_last_layers_bf16": True}, "--first-last-layers-bf16: needs --fp8-format"),
        (
            {**FP8, "tensor_model_parallel_size": 16},
            "--hidden-size 128: with --fp8-format hybrid must be a multiple of 256, 16 on each",
        ),
        ({"recompute_num_layers": 2}, "--recompute-num-layers 2: needs --recompute-granularity full"),
    ],
)
def test_backend_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="^" + message):
        check_backend(tiny_run("mlm", model=WIDE, **overrides))


def test_fp8_accepted() -> None:
    check_backend(tiny_run("mlm", model=WIDE, **FP8, first_last_layers_bf16=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data_path": "0 a 1 b"}, "--data-path 0 a 1 b: the weight of a must be above 0"),
        ({"chunk_size": 65}, "--chunk-size 65: must be 8 to --seq-length 64"),
        ({"chunk_min_size": 33}, "--chunk-min-size 33: must be at most half a chunk of 64 positions"),
        ({"chunk_size": 20, "chunk_min_size": 11}, "--chunk-min-size 11: must be at most half a chunk of 20"),
        ({"chunk_skip_size": 65}, "--chunk-skip-size 65: must be at most a chunk, 64"),
        ({"mlm_probability_schedule": "0.3,0.2"}, "--mlm-probability-schedule 0.3,0.2: must be a share above 0 and"),
        ({"mlm_probability_schedule": "nan"}, "--mlm-probability-schedule nan: must be a share above 0 and at most 1"),
        ({"mlm_probability_schedule": "5:0.3"}, "--mlm-probability-schedule 5:0.3: must be"),
        ({"mlm_probability_schedule": "0:0.3,0:0.2"}, "--mlm-probability-schedule 0:0.3,0:0.2: must be"),
        ({"mlm_probability_schedule": "0:0.3,5B:1.2"}, "--mlm-probability-schedule 0:0.3,5B:1.2: must be"),
        (
            {"masking": "span", "mask_span_length": 1.1, "mlm_probability": 0.6},
            "--mask-span-length 1.1: leaves no room",
        ),
    ],
)
def test_data_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_data(tiny_run("mlm", **settings))
    assert str(caught.value).startswith(message)
