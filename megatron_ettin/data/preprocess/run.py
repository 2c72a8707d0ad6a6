"""Preprocess a corpus: encode texts to token ids on disk as a stream, in memory that is bounded for any corpus size.

The inputs are cut into tasks (plan.py), workers write each as parts (worker.py), which are recorded and joined in the
order of the input (journal.py). Neither the number of workers nor an interruption changes the result.
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
from megatron_ettin.data.preprocess.inputs import by_content_lines, expand_inputs, left_out_lines
from megatron_ettin.data.preprocess.journal import Journal
from megatron_ettin.data.preprocess.plan import choose_part_bytes, plan_tasks, share_of
from megatron_ettin.data.preprocess.progress import Progress
from megatron_ettin.data.preprocess.readers.records import InputFile, Task
from megatron_ettin.data.preprocess.sentences import SentenceSplitter, load_splitter, train_punkt
from megatron_ettin.data.preprocess.settings import PreprocessSettings
from megatron_ettin.data.preprocess.texts import read_texts, sample_texts
from megatron_ettin.data.preprocess.worker import Event, Job, PartDone, PendingTask, TaskEnded, read_skipped
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import file_sha256, flush_to_disk

CACHE_BYTES = 384 << 20
"""Word caches of all workers together; a cache that grows briefly takes twice its size."""


@dataclass(frozen=True)
class PreprocessResult:
    """The outcome of a run."""

    progress: Progress
    pairs: tuple[str, ...]
    """Prefixes of the .bin/.idx pairs written."""
    skipped_file: str = ""
    """Path of the list of skipped records; empty where there are none."""


def preprocess(
    settings: PreprocessSettings,
    report: Callable[[Progress], None] = lambda progress: None,
    log: Callable[[str], None] = lambda line: None,
) -> PreprocessResult:
    """Encode every document of the inputs, and write one .bin/.idx pair for each JSON key.

    Args:
        settings: inputs, output and encoding.
        report: called with the progress after each batch.
        log: called with each notice: the chosen encoder, what a run resumes from.

    Raises:
        ConfigError: an input is missing or damaged, a record is not a document, the tokenizer does not fit, or the
            work folder belongs to another run. Finished parts are kept, and the same command resumes from them.
    """
    check_output_prefix(settings.output_prefix)
    inputs, left_out = expand_inputs(settings.input)
    for line in (*by_content_lines(inputs), *left_out_lines(left_out)):
        log(line)
    pipe = next((file.path for file in inputs if file.is_pipe), "")
    if pipe and (settings.executor == "ray" or settings.num_shards > 1):
        raise ConfigError(f"--input {pipe}: a pipe is read on one machine, by --executor local without --num-shards")
    part_bytes = settings.part_megabytes << 20 or choose_part_bytes(inputs)
    tasks = plan_tasks(inputs, part_bytes, settings.text_documents)
    if settings.num_shards > 1:
        tasks = share_of(tasks, settings.shard_index, settings.num_shards)
    tokenizer = TokenizerFiles.load(settings.tokenizer_model)
    if missing := [role for role in ("cls", "sep", "pad") if role not in tokenizer.roles]:
        texts = ", ".join(tokenizer.role_texts[role] for role in missing)
        log(f"training will refuse this tokenizer: {tokenizer.path} has no {texts} token")
    if tokenizer.dropout:
        log(f"--tokenizer-model {tokenizer.path}: its BPE dropout of {tokenizer.dropout:g} is not applied")
    splitter = _prepare_splitter(settings, log)
    encoder, reason = choose_encoder(
        tokenizer, sample_texts(inputs, settings), max(CACHE_BYTES // settings.workers, 64 << 20)
    )
    log(f"encoder: {encoder.name} ({reason})")
    job = Job(settings, inputs, part_bytes, BlockEncoder(tokenizer, encoder, splitter, append_eod=settings.append_eod))
    facts = _facts(settings, inputs, part_bytes, tokenizer, encoder.name, splitter)
    journal = Journal(
        settings.work_folder,
        facts,
        [task.number for task in tasks],
        len(settings.json_keys),
        can_resume=not any(file.is_pipe for file in inputs),
    )
    with journal, _explain_full_disk(settings):
        progress = _encode(job, journal, tasks, report, log)
        skipped = _list_skipped(settings, inputs, tasks, journal)
        if not journal.is_complete:
            _write_joined(job, journal, tokenizer, facts, left_out)
        _publish(settings, journal)
    pairs = tuple(settings.pair(key) for key in settings.json_keys)
    return PreprocessResult(progress, pairs, skipped)


@contextmanager
def _explain_full_disk(settings: PreprocessSettings) -> Iterator[None]:
    """Raise a full disk as a ConfigError that says how to resume."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        rule = f"finished parts are kept in {settings.work_folder}; run the same command to resume"
        raise ConfigError(f"--output-prefix {settings.output_prefix}: {error.strerror}; {rule}") from None


def _encode(
    job: Job,
    journal: Journal,
    tasks: Sequence[Task],
    report: Callable[[Progress], None],
    log: Callable[[str], None],
) -> Progress:
    """Encode all parts that are not finished, and join finished ones."""
    progress = Progress(all_input_bytes=_share_bytes(job.inputs, tasks))
    for part in journal.finished:
        progress.add(part.progress)
    if progress.documents:
        log(f"resuming in {job.settings.work_folder}: {progress.documents:,} documents are done")
    report(progress)
    left = [] if journal.is_complete else [(t, journal.done(t.number)) for t in tasks if not journal.is_done(t.number)]
    # Joining waits for the disk; encoding must not. The thread starts after workers have been forked.
    with ThreadPoolExecutor(1, thread_name_prefix="join") as thread:
        joining: Future[None] | None = None
        for event in _execute(job, left):
            if isinstance(event, Progress):
                progress.add(event)
                report(progress)
            elif isinstance(event, PartDone | TaskEnded):
                journal.record(event)
                if isinstance(event, PartDone) and event.difference:
                    log(f"gigatoken and tokenizers differ in {event.difference}; the part is encoded again, exactly")
                if joining is None or joining.done():
                    _raise_failure(joining)
                    joining = thread.submit(journal.join)
        _raise_failure(joining)
    journal.join()
    return progress


def _raise_failure(joining: Future[None] | None) -> None:
    """Raise the error of a finished join, if it had one."""
    if joining is not None:
        joining.result()


def _execute(job: Job, tasks: Sequence[PendingTask]) -> Iterator[Event]:
    # Each executor is imported only where it is used.
    if job.settings.executor == "ray":
        from megatron_ettin.data.preprocess.ray_pool import run_on_ray

        return run_on_ray(job, tasks)
    from megatron_ettin.data.preprocess.local_pool import run_here, run_on_workers

    if job.settings.workers == 1 or not tasks:
        return run_here(job, tasks)
    return run_on_workers(job, tasks, job.settings.workers)


def _prepare_splitter(settings: PreprocessSettings, log: Callable[[str], None]) -> SentenceSplitter | None:
    if not settings.split_sentences:
        for flag in ("keep_newlines", "train_punkt", "punkt_model"):
            if getattr(settings, flag):
                raise ConfigError(f"--{flag.replace('_', '-')}: needs --split-sentences")
        return None
    model = settings.punkt_model
    if settings.train_punkt:
        model = model or f"{settings.output_prefix}.punkt"
        if not Path(settings.work_folder).is_dir():  # a resumed run has trained it already
            texts = read_texts(
                settings.input,
                "--input",
                settings.json_keys,
                text_documents=settings.text_documents,
                skip_bad=settings.on_error == "skip",
            )
            train_punkt((text for _, text in texts), model)
            log(f"trained Punkt on the input: {model}")
    return load_splitter(model, settings.lang, keep_newlines=settings.keep_newlines)


def _facts(
    settings: PreprocessSettings,
    inputs: Sequence[InputFile],
    part_bytes: int,
    tokenizer: TokenizerFiles,
    encoder: str,
    splitter: SentenceSplitter | None,
) -> dict[str, object]:
    """Return everything that determines the output, by the flag that sets it."""
    return {
        "--json-keys": list(settings.json_keys),
        "--append-eod": settings.append_eod and (tokenizer.role_texts["eos"] == "[SEP]" or tokenizer.role_texts["eos"]),
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


def _write_joined(
    job: Job, journal: Journal, tokenizer: TokenizerFiles, facts: dict[str, object], left_out: list[str]
) -> None:
    """Write the indices and manifests of the joined tokens, and flush all files."""
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
            encoder=_encoder_names(job, journal),
            settings={**kept, "key": key},
            inputs=[[file.path, file.num_bytes] for file in job.inputs],
            skipped=sum(part.progress.skipped for part in journal.in_order),
            index_sha256=file_sha256(index),
            parts=[part.pairs[number] for part in journal.in_order],
            left_out=left_out,
        )
        facts_file = journal.joined_file(number, ".json")
        facts_file.write_text(manifest.to_json(), encoding="utf-8")
        for path in (tokens, index, facts_file):
            flush_to_disk(path)
    flush_to_disk(Path(settings.work_folder))
    journal.record_complete()


def _encoder_names(job: Job, journal: Journal) -> str:
    """Return the encoder, and the exact one where it encoded some parts again."""
    encoder = job.encoder.encoder
    again = sum(bool(part.difference) for part in journal.in_order)
    if not again or encoder.exact is None:
        return encoder.name
    return f"{encoder.name}; {again} of {len(journal.in_order)} parts: {encoder.exact.name}"


def _publish(settings: PreprocessSettings, journal: Journal) -> None:
    """Move the joined files to their final names.

    An old index is deleted first and the new one moved last, so that an index never stands next to other tokens.
    """
    for number, key in enumerate(settings.json_keys):
        prefix = settings.pair(key)
        final = {".bin": Path(f"{prefix}.bin"), ".idx": Path(f"{prefix}.idx"), ".json": manifest_path(prefix)}
        if journal.joined_file(number, ".bin").exists():
            final[".idx"].unlink(missing_ok=True)
            final[".json"].unlink(missing_ok=True)
        for suffix, path in final.items():
            if journal.joined_file(number, suffix).exists():  # else an earlier run moved it already
                journal.joined_file(number, suffix).replace(path)
    flush_to_disk(Path(settings.work_folder).absolute().parent)
    journal.delete()


def _list_skipped(
    settings: PreprocessSettings, inputs: Sequence[InputFile], tasks: Sequence[Task], journal: Journal
) -> str:
    """Write the list of skipped records in the order of the input, numbered within each file; return its path."""
    path = Path(f"{settings.prefix}.skipped.jsonl")
    if not any(part.progress.skipped for part in journal.in_order):
        if not journal.is_complete:
            path.unlink(missing_ok=True)  # of an earlier run
        return str(path) if path.exists() else ""
    before: dict[int, int] = {}  # lines of a file that is cut, in earlier spans
    by_number = {task.number: task for task in tasks}
    with path.open("w", encoding="utf-8") as file:
        for part in journal.in_order:
            for record in read_skipped(journal.skipped_file(part)) if part.progress.skipped else ():
                source = inputs[record.file]
                number = record.number + before.get(record.file, 0)
                line = {"file": source.path, source.record_name: number, "reason": record.reason}
                file.write(json.dumps({**line, "onwards": True} if record.onwards else line) + "\n")
            span = by_number[part.task].spans[0]
            if span.end is not None:
                before[span.file] = before.get(span.file, 0) + part.num_lines
    return str(path)
