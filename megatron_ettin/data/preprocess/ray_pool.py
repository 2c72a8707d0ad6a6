"""Run tasks on a Ray cluster whose machines share the input and output folders. Ray retries tasks of lost workers."""

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
from megatron_ettin.data.preprocess.worker import Event, Job, PartDone, PendingTask, TaskEnded, process_task
from megatron_ettin.errors import ConfigError, first_line

MOST_RETRIES = 3
QUEUED_PER_CPU = 2
"""Tasks queued in Ray beyond the running ones, so that workers never wait."""


@dataclass(frozen=True)
class _Recipe:
    """A job in the form it is sent; workers load the encoder themselves."""

    settings: PreprocessSettings
    inputs: tuple[InputFile, ...]
    part_bytes: int
    encoder: str
    punkt_model: str


def run_on_ray(job: Job, tasks: Sequence[PendingTask]) -> Iterator[Event]:
    """Run the tasks on the cluster that RAY_ADDRESS or Ray's configuration names, or on a local one.

    Raises:
        ConfigError: Ray is not installed, a task raised it, or workers were lost repeatedly.
        OSError: a task raised it.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError("--executor ray: needs the extra [ray]: pip install 'megatron_ettin[ray]'") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, configure_logging=False)
    recipe = ray.put(_recipe(job))
    do_task = ray.remote(max_retries=MOST_RETRIES)(_do_task)
    limit = max(1, int(ray.cluster_resources().get("CPU", 1))) * (1 + QUEUED_PER_CPU)
    waiting = list(reversed(tasks))
    submitted: list[ray.ObjectRef] = []
    while waiting or submitted:
        while waiting and len(submitted) < limit:
            submitted.append(do_task.remote(recipe, *waiting.pop()))
        ready, submitted = ray.wait(submitted)
        try:
            events = ray.get(ready[0])
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.WorkerCrashedError:
            raise ConfigError(f"--executor ray: a worker was lost {MOST_RETRIES + 1} times on the same task") from None
        except ray.exceptions.RayError as error:  # out of memory, or a lost machine
            raise ConfigError(f"--executor ray: {first_line(error)}") from None
        for event in events:
            if isinstance(event, PartDone):
                yield event.progress
            yield event


def _recipe(job: Job) -> _Recipe:
    """Return the job with absolute paths, valid in any working directory."""
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
    """Build the job, once per worker process."""
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
