"""Text to token ids on disk, in a stream: memory is bounded whatever the corpus's size.

The inputs are cut into tasks (plan.py), workers turn each into files of its own (work.py), which are noted and joined
in the order of the input (journal.py). Neither the number of workers nor an interruption changes the result.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_ettin.data.corpus.indexed_writer import check_output_prefix
from megatron_ettin.data.corpus.manifest import Manifest, manifest_path
from megatron_ettin.data.corpus.merge import write_joined_index
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.preprocess.block_encoder import BlockEncoder
from megatron_ettin.data.preprocess.encoders import choose_encoder
from megatron_ettin.data.preprocess.inputs import find_inputs
from megatron_ettin.data.preprocess.journal import Journal
from megatron_ettin.data.preprocess.plan import choose_part_bytes, plan_tasks, share_of
from megatron_ettin.data.preprocess.readers.records import InputFile, Task, record_name
from megatron_ettin.data.preprocess.sentences import SentenceSplitter, load_splitter, train_punkt
from megatron_ettin.data.preprocess.settings import PreprocessSettings, Progress
from megatron_ettin.data.preprocess.texts import read_texts, sample_texts
from megatron_ettin.data.preprocess.worker import Event, Job, PartDone, TaskEnded, read_skipped
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import file_sha256, flush_to_disk

CACHE_BYTES = 384 << 20
"""What all workers together may use to remember words; a table that grows holds its double for a moment."""


@dataclass(frozen=True)
class PreprocessResult:
    """What was done."""

    progress: Progress
    pairs: tuple[str, ...]
    """Prefixes of what was written."""
    skipped_file: str = ""
    """Lists the records that were left out, where there were any."""


def preprocess(
    settings: PreprocessSettings,
    report: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = lambda line: None,
) -> PreprocessResult:
    """Encode every document of the inputs, and write one pair of files for each JSON key.

    Args:
        settings: what to do.
        report: is shown the progress after each batch.
        say: is told once what is worth knowing: the encoder, what is taken up, what was skipped.

    Raises:
        ConfigError: an input is missing or damaged, a record is no document, the tokenizer does not fit, or another
            run was begun under the same name. Finished parts stay for the same command to go on from.
    """
    check_output_prefix(settings.output_prefix)
    inputs = find_inputs(settings.input)
    pipe = next((file.path for file in inputs if file.is_pipe), "")
    if pipe and (settings.executor == "ray" or settings.num_shards > 1):
        raise ConfigError(f"--input {pipe}: a pipe is read on one machine, by --executor local without --num-shards")
    part_bytes = settings.part_megabytes << 20 or choose_part_bytes(inputs)
    tasks = plan_tasks(inputs, part_bytes, settings.text_documents)
    if settings.num_shards > 1:
        tasks = share_of(tasks, settings.shard_index, settings.num_shards)
    tokenizer = TokenizerFiles.load(settings.tokenizer_model)
    splitter = _prepare_splitter(settings, say)
    encoder, reason = choose_encoder(
        tokenizer, sample_texts(inputs, settings), max(CACHE_BYTES // settings.workers, 64 << 20)
    )
    say(f"encoder: {encoder.name} ({reason})")
    job = Job(settings, inputs, part_bytes, BlockEncoder(tokenizer, encoder, splitter, append_eod=settings.append_eod))
    facts = _facts(settings, inputs, part_bytes, tokenizer, encoder.name, splitter)
    journal = Journal(
        settings.work_folder,
        facts,
        [task.number for task in tasks],
        len(settings.json_keys),
        can_resume=not any(file.is_pipe for file in inputs),
    )
    with journal, _told_when_full(settings):
        progress = _encode(job, journal, tasks, report, say)
        skipped = _list_skipped(settings, inputs, tasks, journal)
        if not journal.is_whole:
            _complete(job, journal, tokenizer, facts)
        _publish(settings, journal)
    pairs = tuple(settings.pair(key) for key in settings.json_keys)
    return PreprocessResult(progress, pairs, skipped)


@contextmanager
def _told_when_full(settings: PreprocessSettings) -> Iterator[None]:
    """Say what a full disk means for this run."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        rule = f"finished parts stay in {settings.work_folder}, and the same command goes on from them"
        raise ConfigError(f"--output-prefix {settings.output_prefix}: {error.strerror}; {rule}") from None


def _encode(
    job: Job,
    journal: Journal,
    tasks: Sequence[Task],
    report: Callable[[Progress], None],
    say: Callable[[str], None],
) -> Progress:
    """Do what is not done yet."""
    progress = Progress(all_input_bytes=_share_bytes(job.inputs, tasks))
    for part in journal.finished:
        progress.add(part.progress)
    if progress.documents:
        say(f"going on in {job.settings.work_folder}: {progress.documents:,} documents are there")
    report(progress)
    left = [] if journal.is_whole else [(t, journal.done(t.number)) for t in tasks if not journal.is_done(t.number)]
    # Joining waits for the disk; whoever encodes must not. The thread starts when workers have been forked.
    with ThreadPoolExecutor(1, thread_name_prefix="join") as thread:
        joining: Future[None] | None = None
        for event in _execute(job, left):
            if isinstance(event, Progress):
                progress.add(event)
                report(progress)
            elif isinstance(event, PartDone | TaskEnded):
                journal.note(event)
                if joining is None or joining.done():
                    _result_of(joining)
                    joining = thread.submit(journal.join)
        _result_of(joining)
    journal.join()
    return progress


def _result_of(joining: Future[None] | None) -> None:
    """Raise what a join has met."""
    if joining is not None:
        joining.result()


def _execute(job: Job, tasks: Sequence[tuple[Task, frozenset[int]]]) -> Iterator[Event]:
    # Loaded only where used: each brings its own machinery.
    if job.settings.executor == "ray":
        from megatron_ettin.data.preprocess.ray_pool import run_on_ray

        return run_on_ray(job, tasks)
    from megatron_ettin.data.preprocess.local_pool import run_here, run_on_workers

    if job.settings.workers == 1 or not tasks:
        return run_here(job, tasks)
    return run_on_workers(job, tasks, job.settings.workers)


def _prepare_splitter(settings: PreprocessSettings, say: Callable[[str], None]) -> SentenceSplitter | None:
    if not settings.split_sentences:
        for flag in ("keep_newlines", "train_punkt", "punkt_model"):
            if getattr(settings, flag):
                raise ConfigError(f"--{flag.replace('_', '-')}: needs --split-sentences")
        return None
    model = settings.punkt_model
    if settings.train_punkt:
        model = model or f"{settings.output_prefix}.punkt"
        if not Path(settings.work_folder).is_dir():  # a run that goes on has learned it already
            texts = read_texts(
                settings.input,
                "--input",
                settings.json_keys,
                text_documents=settings.text_documents,
                skip_bad=settings.on_error == "skip",
            )
            train_punkt((text for _, text in texts), model)
            say(f"learned where sentences end: {model}")
    return load_splitter(model, settings.lang, keep_newlines=settings.keep_newlines)


def _facts(
    settings: PreprocessSettings,
    inputs: Sequence[InputFile],
    part_bytes: int,
    tokenizer: TokenizerFiles,
    encoder: str,
    splitter: SentenceSplitter | None,
) -> dict[str, object]:
    """Return all that decides what is written, by the flag that gives it."""
    return {
        "--json-keys": list(settings.json_keys),
        "--append-eod": settings.append_eod,
        "--split-sentences": settings.split_sentences,
        "--keep-newlines": settings.keep_newlines,
        "--punkt-model": splitter.fingerprint if splitter else "",
        "--text-documents": settings.text_documents,
        "--on-error": settings.on_error,
        "--tokenizer-model": tokenizer.encoding_fingerprint,
        "--shard-index": settings.shard_index,
        "--num-shards": settings.num_shards,
        "--part-megabytes": settings.part_megabytes,
        "--input": [[file.path, file.num_bytes, file.changed_ns] for file in inputs],
        "the encoder": encoder,
        "the size of a part": part_bytes,
    }


def _share_bytes(inputs: Sequence[InputFile], tasks: Sequence[Task]) -> int:
    spans = [span for task in tasks for span in task.spans]
    if any(inputs[span.file].is_pipe for span in spans):
        return 0
    return sum(inputs[span.file].num_bytes if span.end is None else span.end - span.start for span in spans)


def _complete(job: Job, journal: Journal, tokenizer: TokenizerFiles, facts: dict[str, object]) -> None:
    """Write the indices and manifests of the joined tokens."""
    settings = job.settings
    kept = {flag: value for flag, value in facts.items() if flag not in ("--input", "--tokenizer-model", "the encoder")}
    for number, key in enumerate(settings.json_keys):
        tokens, index = journal.joined_file(number, ".bin"), journal.joined_file(number, ".idx")
        tokens.touch()
        write_joined_index(
            [journal.part_file(part, number, ".idx") for part in journal.in_order], np.dtype(job.encoder.dtype), index
        )
        manifest = Manifest(
            tokenizer_fingerprint=tokenizer.encoding_fingerprint,
            tokenizer_file_sha256=tokenizer.fingerprint,
            vocab_size=tokenizer.size,
            encoder=job.encoder.encoder.name,
            settings={**kept, "key": key},
            inputs=[[file.path, file.num_bytes] for file in job.inputs],
            skipped=sum(part.progress.skipped for part in journal.in_order),
            index_sha256=file_sha256(index),
            parts=[part.pairs[number] for part in journal.in_order],
        )
        about = journal.joined_file(number, ".json")
        about.write_text(manifest.to_json(), encoding="utf-8")
        for path in (tokens, index, about):
            flush_to_disk(path)
    flush_to_disk(Path(settings.work_folder))
    journal.note_whole()


def _publish(settings: PreprocessSettings, journal: Journal) -> None:
    """Give the whole its names. An older index goes first and the new one comes last: none ever fits other tokens."""
    for number, key in enumerate(settings.json_keys):
        prefix = settings.pair(key)
        final = {".bin": Path(f"{prefix}.bin"), ".idx": Path(f"{prefix}.idx"), ".json": manifest_path(prefix)}
        if journal.joined_file(number, ".bin").exists():
            final[".idx"].unlink(missing_ok=True)
            final[".json"].unlink(missing_ok=True)
        for suffix, path in final.items():
            if journal.joined_file(number, suffix).exists():  # else an earlier run came as far as this
                journal.joined_file(number, suffix).replace(path)
    flush_to_disk(Path(settings.work_folder).absolute().parent)
    journal.delete()


def _list_skipped(
    settings: PreprocessSettings, inputs: Sequence[InputFile], tasks: Sequence[Task], journal: Journal
) -> str:
    """Write down what was left out, in the order of the input and by the numbers in the files."""
    path = Path(f"{settings.prefix}.skipped.jsonl")
    if not any(part.progress.skipped for part in journal.in_order):
        if not journal.is_whole:
            path.unlink(missing_ok=True)  # of an earlier run
        return str(path) if path.exists() else ""
    before: dict[int, int] = {}  # lines of a file that is cut, in stretches that came already
    stretches = {task.number: task for task in tasks}
    with path.open("w", encoding="utf-8") as file:
        for part in journal.in_order:
            for found in read_skipped(journal.skipped_file(part)) if part.progress.skipped else ():
                about = inputs[found.file]
                number = found.number + before.get(found.file, 0)
                line = {"file": about.path, record_name(about.kind): number, "reason": found.reason}
                file.write(json.dumps({**line, "onwards": True} if found.onwards else line) + "\n")
            span = stretches[part.task].spans[0]
            if span.end is not None:
                before[span.file] = before.get(span.file, 0) + part.num_lines
    return str(path)
