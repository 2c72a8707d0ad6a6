"""Time that training waits for a checkpoint of ettin-150m on a CPU: synchronous saves against --async-save.

    python benchmarks/save_cpu.py [--preset NAME] [--rounds N] [--folder DIR] [--save]

Both write the weights and AdamW's moments of one process to the same disk, with fsync, and alternate. The pause of an
asynchronous save is the time that its calls take from training: planning and copying, the checks between steps whether
it is written, and marking it complete. Between these the process sleeps. The first asynchronous save, which allocates
the memory of the copies, is listed separately. --save writes the table to benchmarks/results/save_cpu.md.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import publish

from megatron_ettin.config.presets import PRESETS, preset_values
from megatron_ettin.config.run import RunConfig
from megatron_ettin.train.run import silence_expected_warnings

RESULTS = Path(__file__).parent / "results" / "save_cpu.md"
GOAL_SHARE = 0.20
SECONDS_BETWEEN_STEPS = 0.1


def build(preset: str) -> Any:
    """Return the training of one process, after one optimizer step."""
    from megatron_ettin.runtime.device import choose_device
    from megatron_ettin.runtime.process import start_process
    from megatron_ettin.train.build import build_training

    values = preset_values(preset, "mlm", "pretrain") | {"optimizer": "adamw", "clip_grad": 0.0}
    config = RunConfig().with_values({"vocab_size": 4096, **values, "objective": "mlm", "device": "cpu"})
    device = choose_device("cpu")
    training = build_training(config, "bidirectional", device, start_process(config, device))
    for parameter in training.model.parameters():
        parameter.main_grad.normal_()
    training.optimizer.step()
    return training


class Saves:
    """Repeated saves of one training, each as the next step of a folder that keeps the last checkpoint."""

    def __init__(self, training: Any, folder: Path, *, in_background: bool) -> None:
        from megatron_ettin.checkpoint.folder.state import TrainingState
        from megatron_ettin.checkpoint.manager import CheckpointManager

        places = {"save": str(folder), "async_save": in_background, "keep_last_checkpoints": 1}
        config = training.config.with_values(places)
        self._state = TrainingState.start("mlm")
        self._saved: list[str] = []
        self._checkpoints = CheckpointManager(config, training.parts, tokenizer_files={}, log=self._saved.append)

    def once(self) -> tuple[float, float]:
        """Save; return the seconds that training waited, and those until the checkpoint was complete."""
        self._state.count_step(samples=1, tokens=1)
        start, waited, saves_before = time.perf_counter(), 0.0, len(self._saved)
        call = lambda: self._checkpoints.save(self._state)  # noqa: E731
        while True:
            call_start = time.perf_counter()
            call()
            waited += time.perf_counter() - call_start
            if len(self._saved) > saves_before:
                return waited, time.perf_counter() - start
            time.sleep(SECONDS_BETWEEN_STEPS)
            call = self._checkpoints.finish_if_written


def measure(preset: str, folder: Path, rounds: int) -> str:
    """Return the table."""
    import torch

    training = build(preset)
    kinds = {"synchronous": False, "asynchronous": True}
    saves = {kind: Saves(training, folder / kind, in_background=background) for kind, background in kinds.items()}
    for kind in kinds:
        (folder / kind).mkdir()
    first = {kind: repeated.once() for kind, repeated in saves.items()}
    times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, repeated in saves.items():
            times[kind].append(repeated.once())
    size = sum(path.stat().st_size for path in (folder / "synchronous").rglob("*.distcp"))
    pause = {kind: statistics.median(waited for waited, _ in rounds_of) for kind, rounds_of in times.items()}
    complete = {kind: statistics.median(seconds for _, seconds in rounds_of) for kind, rounds_of in times.items()}
    ratio = pause["asynchronous"] / pause["synchronous"]
    rows = [f"| {kind} | {pause[kind]:.2f} | {complete[kind]:.2f} | {first[kind][0]:.2f} |" for kind in kinds]
    parameters = sum(parameter.numel() for parameter in training.model.parameters())
    return "\n".join(
        [
            f"# The pause of a save on a CPU, {preset}",
            "",
            f"{parameters:,} parameters with AdamW's moments, {size / 2**30:.2f} GiB of fp32; one process, "
            f"{torch.get_num_threads()} threads, median of {rounds} rounds; torch {torch.__version__}, "
            f"{platform.machine()}. Made by `python benchmarks/save_cpu.py --save`.",
            "",
            "| save | training waits, s | complete after, s | first wait, s |",
            "|---|---:|---:|---:|",
            *rows,
            "",
            f"Training waits for an asynchronous save {ratio:.1%} of the time that it waits for a synchronous one "
            f"(goal: at most {GOAL_SHARE:.0%}).",
        ]
    )


def main() -> None:
    """Measure, print, and save with --save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="ettin-150m", choices=sorted(PRESETS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder", default="", help="folder for the checkpoints; by default the system's temporary folder"
    )
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    silence_expected_warnings()
    folder = Path(tempfile.mkdtemp(prefix="save_cpu_", dir=options.folder or None))
    try:
        page = measure(options.preset, folder, options.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    publish(page, RESULTS, save=options.save)


if __name__ == "__main__":
    main()
