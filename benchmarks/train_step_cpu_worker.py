"""One measurement of benchmarks/train_step_cpu.py in its own process; the last line of output is a JSON object."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megatron_ettin.config.command_line import Command, parse_command
from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles

WARM_UP = 3
"""Steps before the measurement."""


def main() -> None:
    """Run the measurement that the request in the first argument describes."""
    request = json.loads(sys.argv[1])
    torch.set_num_threads(request["threads"])
    config = configure(request)
    if request["task"] == "shares":
        result: dict[str, Any] = shares(config, request["steps"])
    elif request["name"] == "ours":
        result = {"tokens_per_second": our_speed(config)}
    else:
        result = {"tokens_per_second": trainer_speed(config, request, sparse="sparse" in request["name"])}
    print("\n" + json.dumps(result))


def configure(request: dict[str, Any]) -> RunConfig:
    """Return the run: the published recipe of the 17M model with small batches."""
    settings = ["--preset", "ettin-17m", "--objective", request["objective"], "--device", "cpu"]
    settings += ["--packing", "best-fit", "--micro-batch-size", request["rows"], "--global-batch-size", request["rows"]]
    settings += ["--train-iters", WARM_UP + request["steps"], "--log-interval", 1, "--eval-interval", 0]
    settings += ["--data-path", request["data"], "--tokenizer-model", request["tokenizer"]]
    settings += ["--save", str(Path(request["folder"]) / "run")]
    return parse_command([str(setting) for setting in settings]).config


def our_speed(config: RunConfig) -> float:
    """Train with this trainer and return real tokens per second, from its metrics."""
    from megatron_ettin.checkpoint.folder.metrics_file import read_metrics
    from megatron_ettin.train.preflight.prepare import prepare_run
    from megatron_ettin.train.run import run as train

    train(prepare_run(Command(config), world_size=1))
    steps = read_metrics(Path(config.checkpoint.save))
    tokens = np.diff([step["tokens"] for step in steps])[WARM_UP - 1 :]
    seconds = tokens / [step["tokens_per_second"] for step in steps[WARM_UP:]]
    return float(tokens.sum() / seconds.sum())


def trainer_speed(config: RunConfig, request: dict[str, Any], *, sparse: bool) -> float:
    """Train with transformers' Trainer and return real tokens per second."""
    from peer_model import build_peer
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast, Trainer, TrainerCallback
    from transformers import TrainingArguments as Arguments

    tokenizer = PreTrainedTokenizerFast.from_pretrained(config.data.tokenizer_model)
    causal = config.training.objective == "clm"
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=not causal, mlm_probability=config.data.mlm_probability)
    counted: list[tuple[float, int]] = []

    def collate_and_count(examples: list[dict[str, Any]]) -> Any:
        batch = collate(examples)
        counted.append((time.perf_counter(), int(batch["attention_mask"].sum())))
        return batch

    class Clock(TrainerCallback):
        """Records the end of each step."""

        ends: list[float] = []  # noqa: RUF012

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.ends.append(time.perf_counter())

    steps = WARM_UP + request["steps"]
    clock = Clock()
    Trainer(
        model=build_peer(config, sparse=sparse),
        args=Arguments(
            output_dir=request["folder"],
            use_cpu=True,
            max_steps=steps,
            per_device_train_batch_size=request["rows"],
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            learning_rate=1e-4,
        ),
        train_dataset=examples(config, 2 * steps * request["rows"]),
        data_collator=collate_and_count,
        callbacks=[clock],
    ).train()
    took = np.diff(clock.ends)[WARM_UP - 1 :]
    tokens = [count for _, count in counted][WARM_UP : WARM_UP + len(took)]
    return float(sum(tokens) / took.sum())


def examples(config: RunConfig, number: int) -> list[dict[str, list[int]]]:
    """Return the chunks of the first rows of our run, one example for each."""
    from megatron_ettin.train.datasets import build_training_rows, open_corpus

    tokenizer = TokenizerFiles.load(config.data.tokenizer_model)
    rows = build_training_rows(config, open_corpus(config), tokenizer)
    chunks: list[dict[str, list[int]]] = []
    sample = 0
    while len(chunks) < number:
        for chunk in rows.row(sample):
            ids = [tokenizer.cls_id, *chunk.tokens.tolist(), tokenizer.sep_id]
            chunks.append({"input_ids": ids, "attention_mask": [1] * len(ids)})
        sample += 1
    return chunks[:number]


def shares(config: RunConfig, steps: int) -> dict[str, Any]:
    """Return the share of each part of a step, the model FLOP/s, and those of a matrix product."""
    from megatron_ettin.objectives.objective import build_objective
    from megatron_ettin.runtime.device import choose_device
    from megatron_ettin.runtime.performance import product_rate
    from megatron_ettin.runtime.process import end_process, start_process
    from megatron_ettin.train.build import build_training
    from megatron_ettin.train.datasets import build_training_data
    from megatron_ettin.train.prefetch import BatchPrefetcher
    from megatron_ettin.train.step import train_step

    device = choose_device("cpu")
    tokenizer = TokenizerFiles.load(config.data.tokenizer_model)
    objective = build_objective(config, tokenizer)
    ranks = start_process(config, device)
    training = build_training(config, objective.traits.mask_kind, device, ranks)
    data = build_training_data(config, tokenizer, objective)
    spent: dict[str, float] = {}
    time_parts(training, spent)
    work, total = 0, 0.0
    with BatchPrefetcher(lambda step: data.batches(step, ranks), range(WARM_UP + steps), device) as prefetcher:
        for step in range(WARM_UP + steps):
            if step == WARM_UP:
                spent.clear()
                work, total = 0, 0.0
            start = time.perf_counter()
            with timed(spent, "waiting for data"):
                batches = prefetcher.batches(step)
            work += train_step(training, batches, config.optimizer.lr / 100).sums.model_flops
            total += time.perf_counter() - start
    peak = product_rate(device, torch.float32, size=2048, rounds=10)
    end_process()
    spent["norms, residuals and the rest"] = total - sum(spent.values())
    part = {name: seconds / total for name, seconds in spent.items()}
    return {"shares": part, "flops_per_second": work / total, "peak": peak}


def time_parts(training: Any, spent: dict[str, float]) -> None:
    """Add the seconds of each part, forward and backward, to ``spent``."""
    from megatron_ettin.model import ettin

    model = training.model
    for layer in model.transformer.layers:
        time_module(layer.self_attention, "attention and its projections", spent)
        time_module(layer.mlp, "MLP", spent)
    time_module(model.embedding, "embedding", spent)
    time_module(model.head, "head, output matrix and loss", spent)
    loss, step = ettin.scored_cross_entropy, training.optimizer.step_with_ready_grads

    def timed_call(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with timed(spent, name):
                return function(*args, **kwargs)

        return call

    ettin.scored_cross_entropy = timed_call(loss, "head, output matrix and loss")
    training.optimizer.step_with_ready_grads = timed_call(step, "optimizer")


def time_module(module: torch.nn.Module, name: str, spent: dict[str, float]) -> None:
    """Time one module by hooks; on a CPU a module is finished when it returns."""
    starts: list[float] = []

    def before(*args: Any) -> None:
        starts.append(time.perf_counter())

    def after(*args: Any) -> None:
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - starts.pop()

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)
    module.register_full_backward_pre_hook(before)
    module.register_full_backward_hook(after)


@contextmanager
def timed(spent: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds of the block to ``spent[name]``."""
    start = time.perf_counter()
    yield
    spent[name] = spent.get(name, 0.0) + time.perf_counter() - start


if __name__ == "__main__":
    main()
