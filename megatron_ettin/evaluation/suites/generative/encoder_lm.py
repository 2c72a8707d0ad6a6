"""A masked language model as lm-evaluation-harness knows models: ``ettin-encoder``.

Importing this module registers it:

    import megatron_ettin.evaluation.suites.generative.encoder_lm
    lm_eval.simple_evaluate(model="ettin-encoder", model_args="pretrained=FOLDER", tasks=["arc_challenge"])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.suites.generative.harness import RequestProgress
from megatron_ettin.evaluation.suites.generative.masked_frames import EncoderProtocol, Frame, Hole
from megatron_ettin.evaluation.suites.generative.masked_scorer import MaskedScorer, TokenScore


@dataclass(frozen=True)
class Prompt:
    """A text to continue."""

    tokens: Sequence[int]
    """Without special tokens."""
    stops: Sequence[str]
    """The continuation ends where its text holds one of these; ``""`` stops nothing."""
    most_tokens: int


def generate(
    scorer: MaskedScorer,
    frame: Frame,
    prompts: Sequence[Prompt],
    decode: Callable[[list[int]], str],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[int]]:
    """Return the tokens that continue each prompt, a stop among them but not [SEP], which ends a text too.

    All prompts go forward together, a token at a time; those that ended leave the batch.
    """
    endings: list[list[int]] = [[] for _ in prompts]
    going = [index for index, prompt in enumerate(prompts) if prompt.most_tokens > 0]
    while going:
        guesses = scorer.guess([frame.next_token([*prompts[i].tokens, *endings[i]]) for i in going])
        for index, token in zip(going, guesses, strict=True):
            if token != frame.sep:
                endings[index].append(token)
        goes_on = [token != frame.sep for token in guesses]
        going = [
            index
            for index, is_open in zip(going, goes_on, strict=True)
            if is_open and not _has_ended(prompts[index], endings[index], decode)
        ]
        on_progress(len(prompts) - len(going), len(prompts))
    return endings


def _has_ended(prompt: Prompt, ending: list[int], decode: Callable[[list[int]], str]) -> bool:
    if len(ending) >= prompt.most_tokens:
        return True
    text = decode(ending)
    return any(stop and stop in text for stop in prompt.stops)


_TOKENS_PER_ROW = 64
"""A batch of ``batch_size`` is so many times this many tokens: rows are of very different lengths."""

_MOST_NEW_TOKENS = 256
"""Where a task does not say how much to generate: the harness's own number, if half the positions hold it."""

TokenizedRequest = tuple[tuple[str, str] | None, list[int], list[int]]
"""A pair of texts, and the tokens of context, beginning with [CLS], and continuation."""


@register_model("ettin-encoder")
class EncoderLM(TemplateLM):
    """Scores continuations, and generates, with an encoder; what the model is shown is in masked_frames.py."""

    def __init__(
        self,
        pretrained: Any,
        tokenizer: Any = None,
        *,
        protocol: EncoderProtocol = "left-to-right",
        future_masks: int | str = 0,
        batch_size: int | str | None = 32,
        max_batch_size: int | None = None,
        device: str | None = "cpu",
    ) -> None:
        """Take a model, or the folder or name of one.

        Args:
            pretrained: a masked language model of transformers in evaluation mode, or where it lies.
            tokenizer: its tokenizer; the one beside it where ``pretrained`` is a folder or name.
            protocol: how loglikelihoods are computed; rolling ones and generation are left to right always.
            future_masks: [MASK] after the one to be guessed.
            batch_size: times 64 is how many tokens a batch holds at most.
            max_batch_size: not used; the harness hands it to every model.
            device: where a model that lies somewhere is put.
        """
        super().__init__()
        if isinstance(pretrained, str):
            pretrained, tokenizer = _load(pretrained, device or "cpu")
        self.tokenizer = tokenizer
        self.protocol: EncoderProtocol = protocol
        """Of loglikelihoods; may change between tasks."""
        self._device = pretrained.device
        self._frame = Frame(
            cls=tokenizer.cls_token_id,
            sep=tokenizer.sep_token_id,
            mask=tokenizer.mask_token_id,
            # RoBERTa's config counts two positions that no text gets; its tokenizer knows.
            max_positions=min(pretrained.config.max_position_embeddings, tokenizer.model_max_length),
            future_masks=int(future_masks),
        )
        self._scorer = MaskedScorer(pretrained, tokenizer.pad_token_id, int(batch_size or 1) * _TOKENS_PER_ROW)
        self.progress = RequestProgress()

    @property
    def eot_token_id(self) -> int:
        """What ends a text."""
        return self._frame.sep

    @property
    def prefix_token_id(self) -> int:
        """What begins a text."""
        return self._frame.cls

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return a text's tokens after [CLS], or without it; [SEP] is set where a text is scored."""
        tokens: list[int] = self.tokenizer.encode(string, add_special_tokens=False)
        return tokens if add_special_tokens is False else [self._frame.cls, *tokens]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Return each continuation's log-likelihood after its context, and whether each token was the likeliest."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def _loglikelihood_tokens(
        self, requests: list[TokenizedRequest], disable_tqdm: bool = True, **_: Any
    ) -> list[tuple[float, bool]]:
        sees_all = self.protocol == "pll"
        scores = iter(self._score([(context[1:], ending) for _, context, ending in requests], sees_all=sees_all))
        return [_sum(list(islice(scores, len(ending)))) for _, _, ending in requests]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Return the log-likelihood of whole texts; long ones in chunks, as the harness cuts them for decoders."""
        chunks = [self._chunks(*request.args) for request in requests]
        scores = iter(self._score([chunk for of_text in chunks for chunk in of_text], sees_all=False))
        return [
            sum(_sum(list(islice(scores, len(ending))))[0] for _, ending in of_text)  # one chunk after the other
            for of_text in chunks
        ]

    def _chunks(self, text: str) -> list[tuple[list[int], list[int]]]:
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text, add_special_tokens=False),
            prefix_token=self._frame.cls,
            max_seq_len=self._frame.max_positions - 2 - self._frame.future_masks,
            context_len=1,
        )
        found = [make_disjoint_window(window) for window in windows]
        return [(context[1:] if context[0] == self._frame.cls else context, ending) for context, ending in found]

    def _score(self, asked: Sequence[tuple[list[int], list[int]]], *, sees_all: bool) -> list[TokenScore]:
        """Score all tokens of all continuations, one after the other."""
        layout = self._frame.all_in_sight if sees_all else self._frame.left_to_right
        self.progress.num_cut += sum(self._frame.is_cut(*pair) for pair in asked)
        total = sum(len(ending) for _, ending in asked)

        def holes() -> Iterator[tuple[Hole, int]]:
            for context, ending in asked:
                yield from zip(layout(context, ending), ending, strict=True)

        return self._scorer.score(holes(), lambda done: self.progress.tell(done, total))

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Continue each text with the likeliest token at a new [MASK], again and again, until one of its stops.

        Raises:
            ConfigError: a task asks for random samples.
        """
        prompts = [self._prompt(*request.args) for request in requests]
        decode = self.tokenizer.decode
        endings = generate(
            self._scorer, self._frame, prompts, lambda ids: decode(ids, skip_special_tokens=True), self.progress.tell
        )
        return [
            postprocess_generated_text(decode(ending, skip_special_tokens=True), prompt.stops, None)
            for ending, prompt in zip(endings, prompts, strict=True)
        ]

    def _prompt(self, text: str, settings: dict[str, Any]) -> Prompt:
        told = normalize_gen_kwargs(settings, min(_MOST_NEW_TOKENS, self._frame.max_positions // 2))
        if told.get("do_sample"):
            raise ConfigError("an encoder generates the likeliest tokens only; this task asks for random samples")
        most = told["max_gen_toks"]
        tokens = self.tok_encode(text, add_special_tokens=False)
        room = max(1, self._frame.max_positions - 3 - self._frame.future_masks - most)
        self.progress.num_cut += len(tokens) > room
        return Prompt(tokens[-room:], handle_stop_sequences(list(told["until"]), eos=None), most)


def _sum(scores: Sequence[TokenScore]) -> tuple[float, bool]:
    return sum(score.log_prob for score in scores), all(score.is_best for score in scores)


def _load(name: str, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    return AutoModelForMaskedLM.from_pretrained(name).eval().to(device), AutoTokenizer.from_pretrained(name)
