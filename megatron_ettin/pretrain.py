"""Entry point: ``torchrun -m megatron_ettin.pretrain``. Only training imports torch and megatron-core (seconds)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from megatron_ettin.config.command_line import Launch, parse_command
from megatron_ettin.errors import ConfigError, RunFailure
from megatron_ettin.runtime.signals import hold_signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default this process's.

    Returns:
        0, 2 for wrong input, or 1 for a failed run; rank 0 reports errors in one line.
    """
    # torchrun ends all ranks as soon as one has failed: no rank may exit before rank 0 reports, nor by that signal.
    hold_signals()
    try:
        return start(sys.argv[1:] if arguments is None else arguments, Launch.from_environment(os.environ))
    except (ConfigError, RunFailure) as error:
        hold_signals()
        if os.environ.get("RANK", "0") == "0":
            sys.stderr.write(f"error: {error}\n")
        else:
            time.sleep(0.5)
        return 2 if isinstance(error, ConfigError) else 1


def start(arguments: Sequence[str], launch: Launch) -> int:
    """Plan, train or evaluate; return the exit code.

    Raises:
        ConfigError: the command line or a file it names is wrong.
        RunFailure: training cannot continue.
    """
    command = parse_command(arguments)
    from megatron_ettin.planning.cluster import parse_cluster
    from megatron_ettin.train.preflight.prepare import prepare_run  # imports numpy: not for --help

    cluster = parse_cluster(command.plan_flags, launch.world_size)
    prepared = prepare_run(command, cluster.gpus if cluster else launch.world_size)
    if command.dry_run:
        from megatron_ettin.optim.schedules import learning_rate_path
        from megatron_ettin.planning.plan import build_plan
        from megatron_ettin.planning.report import plan_text

        config = prepared.config
        rates = learning_rate_path(config.optimizer, config.training)
        plan = plan_text(build_plan(config, launch.world_size, prepared.notes, rates, cluster), command.dry_run)
        sys.stdout.write(f"{plan}\n" if launch.rank == 0 else "")
        return 0
    from megatron_ettin.train.run import run as train

    return train(prepared)


if __name__ == "__main__":  # megatron-core spawns processes when it saves, and they import this file
    sys.exit(main())
