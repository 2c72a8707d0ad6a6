"""Projected time and cost of training the six sizes on 2T tokens with more GPUs, from a step rate and a network.

    python benchmarks/scaling.py [--rates FILE] [--price DOLLARS]

Without --rates, a GPU's rate is derived from the authors' published hours. FILE is JSON, size -> tokens/s of one GPU.
A step takes the time of its tokens at that rate, plus, without any overlap, the reduction of the gradients (fp32,
reduce-scatter) and the gathering of the weights (bf16) over the slowest links between the GPUs.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.config.command_line import parse_command
from megatron_ettin.config.presets import PUBLISHED_TOKENS_PER_ROW, SIZES
from megatron_ettin.planning.model_size import count_parameters

TOKENS = 2.0e12
ROWS_PER_STEP = 4608
GPUS = (1, 4, 32, 256)
AUTHORS_GPUS = 4
AUTHORS_HOURS = {"17m": 141, "32m": 212, "68m": 300, "150m": 470, "400m": 950, "1b": 2170}
"""On four H100 for 2T tokens, as reported in the paper."""


@dataclass(frozen=True)
class Network:
    """Bandwidth and latency of one GPU."""

    gpus_per_node: int = 8
    in_node_bytes_per_second: float = 360e9
    """Fourth-generation NVLink: 80% of the 450e9 in one direction of the data sheet."""
    between_nodes_bytes_per_second: float = 40e9
    """80% of one port of 400 Gbit/s for each GPU."""
    latency_seconds: float = 20e-6
    """Of one exchange between neighbours."""


def exchange_seconds(parameters: int, gpus: int, network: Network) -> float:
    """Return the time to exchange gradients and weights in a ring over all GPUs, limited by its slowest link.

    Each of n GPUs sends (n - 1) / n of 4 bytes a parameter for the gradients and of 2 for the weights.
    """
    if gpus == 1:
        return 0.0
    inside = gpus <= network.gpus_per_node
    rate = network.in_node_bytes_per_second if inside else network.between_nodes_bytes_per_second
    hops = 2 * math.ceil(math.log2(gpus))  # by NCCL's trees; the latency of rings is higher
    return 6 * parameters * (gpus - 1) / gpus / rate + hops * network.latency_seconds


def hours(parameters: int, rate: float, gpus: int, network: Network) -> float:
    """Return the hours for TOKENS.

    Args:
        parameters: number of parameters.
        rate: tokens per second of a single GPU.
        gpus: number of GPUs that share each step.
        network: the network between them.
    """
    tokens_per_step = ROWS_PER_STEP * PUBLISHED_TOKENS_PER_ROW
    step = tokens_per_step / (rate * gpus) + exchange_seconds(parameters, gpus, network)
    return TOKENS / tokens_per_step * step / 3600


def authors_rate(size: str) -> float:
    """Return the tokens per second of one GPU, derived from the authors' hours."""
    return TOKENS / (AUTHORS_HOURS[size] * 3600 * AUTHORS_GPUS)


def table(rates: Mapping[str, float], price: float, network: Network) -> str:
    """Return the projection as Markdown."""
    head = ["size", "tokens/s of a GPU", *(f"{gpus} GPU{'s' * (gpus > 1)}" for gpus in GPUS), "authors, 4 H100"]
    lines = [_row(head), _row(["---"] * len(head))]
    for size in SIZES:
        model = parse_command(["--preset", f"ettin-{size}", "--objective", "mlm"]).config.model
        parameters = count_parameters(model).total
        cells = []
        for gpus in GPUS:
            duration = hours(parameters, rates[size], gpus, network)
            cells.append(f"{_time(duration)}, ${duration * gpus * price:,.0f}")
        lines.append(_row([size, f"{rates[size]:,.0f}", *cells, f"{AUTHORS_HOURS[size]:,} h"]))
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _time(duration: float) -> str:
    return f"{duration:,.0f} h" if duration >= 10 else f"{duration:.1f} h"


def main() -> None:
    """Print the projection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", metavar="FILE", help="JSON: size -> tokens/s of one GPU")
    parser.add_argument("--price", type=float, default=2.5, metavar="DOLLARS", help="price of one GPU-hour")
    options = parser.parse_args()
    rates = {size: authors_rate(size) for size in SIZES}
    if options.rates:
        rates |= json.loads(Path(options.rates).read_text(encoding="utf-8"))
    print(table(rates, options.price, Network()))


if __name__ == "__main__":
    main()
