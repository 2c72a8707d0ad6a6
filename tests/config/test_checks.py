"""What is refused between the sections of a run, and what is not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ettin.config.checks import check_run
from megatron_ettin.config.presets import PRESETS, preset_values
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.training import PHASES
from megatron_ettin.errors import ConfigError

COMPLETE = {
    "objective": "mlm",
    "data_path": "corpus_text_document",
    "tokenizer_model": "tokenizer",
    "save": "runs/a",
    "train_iters": 100,
}


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
            settings |= {"train_iters": 0, "eval_interval": 0}
        check_run(complete_run(**settings), 2)


@pytest.mark.parametrize(
    ("values", "world_size", "message"),
    [
        ({"hidden_size": 100, "num_attention_heads": 3}, 1, "--hidden-size 100: cannot be split over"),
        ({"hidden_size": 12}, 1, "--hidden-size 12: with --num-attention-heads 4 makes heads of 3: RoPE"),
        ({"sliding_window": 33}, 1, "--sliding-window 33: must be even"),
        ({"tensor_model_parallel_size": 3}, 3, "--num-attention-heads 4: cannot be split over --tensor"),
        ({"ffn_hidden_size": 7, "tensor_model_parallel_size": 2}, 2, "--ffn-hidden-size 7: cannot be split over"),
        ({"pipeline_model_parallel_size": 8}, 8, "--pipeline-model-parallel-size 8: each stage needs a layer"),
        ({"tensor_model_parallel_size": 2}, 3, "--pipeline-model-parallel-size 1: one model takes 2 ranks"),
        ({"tensor_model_parallel_size": 2}, 1, "has 1, which is no multiple of that"),
        ({"sequence_parallel": True}, 2, "--sequence-parallel: splits over the tensor-parallel ranks"),
        ({"context_parallel_size": 2}, 2, "--context-parallel-size 2: context parallelism is not supported"),
        ({"num_layers_per_virtual_pipeline_stage": 1}, 2, "the interleaved pipeline is not supported"),
        ({"use_torch_fsdp2": True}, 2, "--use-torch-fsdp2: FSDP is not supported"),
        ({"micro_batch_size": 3}, 1, "--global-batch-size 8: is no multiple of --micro-batch-size 3 x 1"),
        ({"global_batch_size": 8}, 3, "is no multiple of --micro-batch-size 1 x 3 data-parallel ranks = 3"),
        ({"min_lr": 1.0}, 1, "--min-lr 1.0: must not exceed the peak, --lr 0.003"),
        ({"lr_decay_style": "cosine", "lr_wsd_decay_iters": 5}, 1, "belongs to --lr-decay-style WSD"),
        ({"lr_warmup_iters": 101}, 1, "must not be longer than the schedule, --train-iters 100"),
        ({"lr_warmup_iters": 60, "lr_wsd_decay_iters": 50}, 1, "and --lr-warmup-iters 60 together"),
        ({"lr_warmup_iters": 60, "lr_decay_iters": 50}, 1, "the schedule, --lr-decay-iters 50"),
        ({"train_tokens": 5}, 1, "--train-tokens 5: and --train-iters 100 say the same thing; give one of them"),
        ({"save_interval": 5, "save_interval_tokens": 8_500_000_000}, 1, "--save-interval-tokens 8.5B: and"),
        ({"lr_warmup_iters": 5, "lr_decay_tokens": 50}, 1, "--lr-warmup-iters 5: and --lr-decay-tokens 50: the"),
        ({"lr_warmup_tokens": 5, "lr_decay_style": "linear"}, 1, "--train-iters 100: does not tell when"),
        ({"train_iters": 0, "train_tokens": 9, "lr_warmup_tokens": 10}, 1, "than the schedule, --train-tokens 9"),
        ({"optimizer": "stable_adamw", "lr": 0.0}, 1, "--lr 0.0: must be above 0 with --optimizer stable_adamw"),
        ({"max_lr": 0.1}, 1, "--max-lr 0.1: belongs to --optimizer stable_adamw; got --optimizer adamw"),
        (
            {"optimizer": "muon", "tensor_model_parallel_size": 2},
            2,
            "--optimizer muon: needs whole matrices, and --tensor-model-parallel-size 2 splits them",
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


def test_a_plan_needs_no_corpus_folder_or_duration() -> None:
    check_run(RunConfig().with_values({"objective": "mlm"}), 1, planning=True)


def test_a_plan_still_needs_what_it_plans() -> None:
    assert refusal(RunConfig(), planning=True).startswith("--objective is missing")
    unsound = complete_run(hidden_size=100, num_attention_heads=3)
    assert "cannot be split" in refusal(unsound, planning=True)


sizes = st.sampled_from([1, 2, 3, 4, 6, 8])


@given(tp=sizes, pp=sizes, world=st.integers(1, 48), micro=sizes, batch=st.integers(1, 64), heads=sizes)
def test_whatever_is_accepted_divides(tp: int, pp: int, world: int, micro: int, batch: int, heads: int) -> None:
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
