"""Training speed on one GPU: every size, both objectives and each kind of layer, against transformers' classes.

    python benchmarks/train_step_gpu.py --data PREFIX --tokenizer DIR [--sizes 17m 150m ...] [--objectives mlm clm]
        [--layers local engine fp8] [--seq-length 1024] [--steps N] [--peer] [--profile FILE] [--output FILE]

Rows are those of a run: real text, packed best-fit, with fresh masks, prefetched while the previous step runs. A step
is forward, backward and optimizer; medians over the steps are reported. Model FLOP/s count the work that the objective
defines (planning/model_size.py); MFU is their share of the GPU's nominal bf16 rate, and of the rate of a product of
two 8192 x 8192 matrices. The layers engine and fp8 need the extra [te].

--peer trains transformers' ModernBertForMaskedLM or ModernBertDecoderForCausalLM in the same process, compiled, bf16,
sdpa, fused AdamW, on the same chunks, each in its own row padded to the sequence length.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from common import fail, require

from megatron_ettin.config.command_line import parse_command
from megatron_ettin.config.run import RunConfig

SIZES = ("17m", "32m", "68m", "150m", "400m", "1b")
MICRO_BATCH_TOKENS = {"17m": 131072, "32m": 131072, "68m": 65536, "150m": 65536, "400m": 32768, "1b": 16384}
"""One micro-batch fills the GPU, activations included."""
MICRO_BATCHES = 8
"""In one step; the published batch has 70 to 280 of them on one GPU, so the optimizer's share is larger here."""
NOMINAL_BF16 = {"NVIDIA H200": 989.5e12, "NVIDIA H100 80GB HBM3": 989.5e12, "NVIDIA A100-SXM4-80GB": 312e12}
"""Dense bf16 operations per second, from the vendor's data sheets."""
LAYERS = {
    "local": ["--transformer-impl", "local"],
    "engine": ["--transformer-impl", "transformer_engine"],
    "fp8": ["--transformer-impl", "transformer_engine", "--fp8-format", "hybrid", "--fp8-recipe"],
}


def main() -> None:
    """Measure all combinations on the command line, print a line for each, and write them to --output."""
    arguments = parse_arguments()
    if set(arguments.layers) - {"local"}:
        require("transformer_engine", extra="te")
    if not torch.cuda.is_available():
        fail("this benchmark needs a GPU, and torch sees none")
    from megatron_ettin.runtime.device import choose_device
    from megatron_ettin.runtime.performance import product_rate

    device = torch.cuda.get_device_name()
    peak = product_rate(choose_device("cuda"), torch.bfloat16, rounds=13)
    print(f"{device}, torch {torch.__version__}, bf16 product {peak / 1e12:.0f} TFLOP/s", flush=True)
    results = []
    for size in arguments.sizes:
        for objective in arguments.objectives:
            for layers in arguments.layers:
                for record in attempts(arguments, size, objective, layers):
                    rate = record.get("model_flops_per_second", 0.0)
                    record |= {"device": device, "torch": torch.__version__, "mfu_measured": rate / peak}
                    record["mfu_nominal"] = rate / NOMINAL_BF16.get(device, float("nan"))
                    results.append(record)
                    print(line(record), flush=True)
                    if arguments.output:
                        Path(arguments.output).write_text(json.dumps(results, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="PREFIX")
    parser.add_argument("--tokenizer", required=True, metavar="DIR")
    parser.add_argument("--sizes", nargs="+", default=SIZES, choices=SIZES)
    parser.add_argument("--objectives", nargs="+", default=("mlm", "clm"), choices=("mlm", "clm"))
    parser.add_argument("--layers", nargs="+", default=tuple(LAYERS), choices=tuple(LAYERS))
    parser.add_argument("--fp8-recipe", default="tensorwise")
    parser.add_argument("--seq-length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--micro-batch-tokens", type=int, default=0)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--profile", default="", metavar="FILE")
    parser.add_argument("--output", default="", metavar="FILE")
    return parser.parse_args()


def attempts(arguments: argparse.Namespace, size: str, objective: str, layers: str) -> Iterator[dict[str, Any]]:
    """Measure one combination; a failure is recorded, and the next combination runs."""
    from peer_gpu import peer_step

    config = configure(arguments, size, objective, layers)
    names = {"size": size, "objective": objective, "layers": layers, "seq_length": arguments.seq_length}
    kinds: list[tuple[str, Callable[..., dict[str, Any]]]] = [(layers, measure)]
    if arguments.peer and layers == arguments.layers[0]:
        kinds.append(("transformers", peer_step))
    for name, kind in kinds:
        try:
            with fresh_memory():
                yield names | {"layers": name} | kind(config, arguments.steps, arguments.profile)
        except Exception as error:
            yield names | {"layers": name, "error": f"{type(error).__name__}: {error}"[:300]}


def configure(arguments: argparse.Namespace, size: str, objective: str, layers: str) -> RunConfig:
    """Return the run of one combination."""
    rows = max(1, (arguments.micro_batch_tokens or MICRO_BATCH_TOKENS[size]) // arguments.seq_length)
    settings = ["--preset", f"ettin-{size}", "--objective", objective, "--bf16", "--packing", "best-fit"]
    settings += ["--seq-length", arguments.seq_length, "--micro-batch-size", rows]
    settings += ["--global-batch-size", rows * MICRO_BATCHES, "--train-iters", arguments.steps]
    settings += ["--data-path", arguments.data, "--tokenizer-model", arguments.tokenizer]
    settings += LAYERS[layers] + ([arguments.fp8_recipe] if layers == "fp8" else [])
    return parse_command([str(setting) for setting in settings]).config


def measure(config: RunConfig, steps: int, profile: str) -> dict[str, Any]:
    """Time the trainer's steps, without checkpoints and logging."""
    from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
    from megatron_ettin.objectives.objective import build_objective
    from megatron_ettin.runtime.backend import resolve_backend
    from megatron_ettin.runtime.device import choose_device
    from megatron_ettin.runtime.process import start_process
    from megatron_ettin.train.build import build_training
    from megatron_ettin.train.datasets import build_training_data
    from megatron_ettin.train.prefetch import BatchPrefetcher
    from megatron_ettin.train.step import train_step

    device = choose_device("cuda")
    config, _ = resolve_backend(config, device)
    tokenizer = TokenizerFiles.load(config.data.tokenizer_model)
    objective = build_objective(config, tokenizer)
    ranks = start_process(config, device)
    training = build_training(config, objective.traits.mask_kind, device, ranks)
    data = build_training_data(config, tokenizer, objective)
    seconds, waits, tokens, flops, losses = [], [], [], [], []
    warm_up = 3
    with BatchPrefetcher(lambda step: data.batches(step, ranks), range(warm_up + steps), device) as prefetcher:
        for step in range(warm_up + steps):
            started = time.perf_counter()
            batches = prefetcher.batches(step)
            waited = time.perf_counter() - started
            with profiled(profile if step == warm_up + steps - 1 else ""):
                result = train_step(training, batches, config.optimizer.lr * min(1.0, (step + 1) / 100))
            if step == warm_up - 1:
                torch.cuda.reset_peak_memory_stats()
            losses.append(result.sums.loss)
            if step >= warm_up and not (profile and step == warm_up + steps - 1):
                seconds.append(time.perf_counter() - started)
                waits.append(waited)
                tokens.append(result.sums.real_tokens)
                flops.append(result.sums.model_flops)
    return {
        "tokens_per_second": statistics.median(count / took for count, took in zip(tokens, seconds, strict=True)),
        "model_flops_per_second": statistics.median(work / took for work, took in zip(flops, seconds, strict=True)),
        "seconds_per_step": statistics.median(seconds),
        "data_wait_share": sum(waits) / sum(seconds),
        "tokens_per_step": statistics.mean(tokens),
        "micro_batch_rows": config.training.micro_batch_size,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(),
        "losses": losses,
        "optimizer_seconds": optimizer_seconds(training),
    }


def optimizer_seconds(training: Any) -> float:
    """Return the seconds of one optimizer step after warm-up."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    training.optimizer.step()
    torch.cuda.synchronize()
    return time.perf_counter() - started


@contextmanager
def fresh_memory() -> Iterator[None]:
    """Free the GPU's memory and the process groups after a measurement."""
    from megatron_ettin.runtime.process import end_process

    try:
        yield
    finally:
        end_process()
        gc.collect()
        torch.cuda.empty_cache()
        torch._dynamo.reset()


@contextmanager
def profiled(path: str) -> Iterator[None]:
    """Append the kernels of the block, sorted by total time, to a file; does nothing without a path."""
    if not path:
        yield
        return
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as trace:
        yield
        torch.cuda.synchronize()
    averages = trace.key_averages()
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(averages.table(sort_by="self_cuda_time_total", row_limit=60, max_name_column_width=90) + "\n")


def line(record: dict[str, Any]) -> str:
    """Return a record as one line."""
    name = f"{record['size']:>5} {record['objective']} {record['layers']:<12} {record['seq_length']:>5}"
    if "error" in record:
        return f"{name}  {record['error']}"
    rate, speed = record["model_flops_per_second"] / 1e12, record["tokens_per_second"]
    return (
        f"{name}  {speed:>11,.0f} tokens/s  {rate:6.1f} TFLOP/s"
        f"  MFU {record['mfu_nominal']:.3f} nominal {record['mfu_measured']:.3f} measured"
        f"  {record['peak_memory_bytes'] / 2**30:6.1f} GiB  data wait {record.get('data_wait_share', 0):.4f}"
        f"  optimizer {1e3 * record.get('optimizer_seconds', 0):.1f} ms"
        f"  step {record.get('seconds_per_step', 0):.3f} s  loss {record.get('losses', [0])[-1]:.3f}"
    )


if __name__ == "__main__":
    main()
