"""Tasks on a Ray cluster whose machines share the folders of input and output. Ray repeats what a lost worker had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.preprocess.block_encoder import BlockEncoder
from megatron_ettin.data.preprocess.encoders import load_encoder
from megatron_ettin.data.preprocess.readers.records import InputFile, Task
from megatron_ettin.data.preprocess.sentences import load_splitter
from megatron_ettin.data.preprocess.settings import PreprocessSettings
from megatron_ettin.data.preprocess.worker import Event, Job, PartDone, TaskEnded, process_task
from megatron_ettin.errors import ConfigError

MOST_RETRIES = 3
WAITING_PER_CPU = 2
"""Tasks handed to Ray beyond those that run, so that no worker waits for the next."""


@dataclass(frozen=True)
class _Recipe:
    """A job as it is sent: encoders are loaded where they run."""

    settings: PreprocessSettings
    inputs: tuple[InputFile, ...]
    part_bytes: int
    encoder: str
    punkt_model: str


def run_on_ray(job: Job, tasks: Sequence[tuple[Task, frozenset[int]]]) -> Iterator[Event]:
    """Do the tasks on the cluster that RAY_ADDRESS or Ray's own configuration names, or on a local one.

    Raises:
        ConfigError: Ray is not installed, what a task raises, or workers were killed time and again.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError("--executor ray: needs the extra [ray]: pip install 'megatron_ettin[ray]'") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, configure_logging=False)
    recipe = ray.put(_recipe(job))
    do_task = ray.remote(max_retries=MOST_RETRIES)(_do_task)
    limit = max(1, int(ray.cluster_resources().get("CPU", 1))) * (1 + WAITING_PER_CPU)
    waiting = list(reversed(tasks))
    under_way: list[ray.ObjectRef] = []
    while waiting or under_way:
        while waiting and len(under_way) < limit:
            under_way.append(do_task.remote(recipe, *waiting.pop()))
        ready, under_way = ray.wait(under_way)
        try:
            events = ray.get(ready[0])
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.WorkerCrashedError:
            raise ConfigError(f"--executor ray: a worker was lost {MOST_RETRIES + 1} times at the same task") from None
        except ray.exceptions.RayError as error:  # memory that a machine lacks, or a machine itself
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"--executor ray: {reason}") from None
        for event in events:
            if isinstance(event, PartDone):
                yield event.progress
            yield event


def _recipe(job: Job) -> _Recipe:
    """Return the job with paths that mean the same wherever a worker is started."""
    settings = job.settings
    model = settings.punkt_model or (f"{settings.output_prefix}.punkt" if settings.train_punkt else "")
    return _Recipe(
        settings=replace(
            settings,
            output_prefix=str(Path(settings.output_prefix).absolute()),
            tokenizer_model=str(Path(settings.tokenizer_model).absolute()),
        ),
        inputs=tuple(replace(file, path=str(Path(file.path).absolute())) for file in job.inputs),
        part_bytes=job.part_bytes,
        encoder=job.encoder.encoder.name,
        punkt_model=str(Path(model).absolute()) if model else "",
    )


@lru_cache(maxsize=1)
def _load(recipe: _Recipe) -> Job:
    """Make a worker's job once."""
    settings = recipe.settings
    tokenizer = TokenizerFiles.load(settings.tokenizer_model)
    splitter = (
        load_splitter(recipe.punkt_model, settings.lang, keep_newlines=settings.keep_newlines)
        if settings.split_sentences
        else None
    )
    encoder = load_encoder(tokenizer, recipe.encoder)
    return Job(
        settings,
        recipe.inputs,
        recipe.part_bytes,
        BlockEncoder(tokenizer, encoder, splitter, append_eod=settings.append_eod),
    )


def _do_task(recipe: _Recipe, task: Task, done: frozenset[int]) -> list[PartDone | TaskEnded]:
    """Run inside a Ray worker."""
    return [event for event in process_task(_load(recipe), task, done) if isinstance(event, PartDone | TaskEnded)]
