"""A masked language model as a model class of lm-evaluation-harness: ``ettin-encoder``.

Importing this module registers it:

    import megatron_ettin.evaluation.suites.generative.encoder_lm
    lm_eval.simple_evaluate(model="ettin-encoder", model_args="pretrained=FOLDER", tasks=["arc_challenge"])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.suites.generative.harness import RequestProgress
from megatron_ettin.evaluation.suites.generative.masked_inputs import EncoderProtocol, MaskedInputBuilder
from megatron_ettin.evaluation.suites.generative.masked_scorer import (
    MaskedScorer,
    Prompt,
    Target,
    TokenScore,
    generate,
)

_TOKENS_PER_ROW = 64
"""Tokens in a batch per unit of ``batch_size``: inputs differ widely in length."""
_MAX_NEW_TOKENS = 256
"""Tokens to generate if a task does not set a limit: the harness's default, if it fits into half the positions."""

TokenizedRequest = tuple[tuple[str, str] | None, list[int], list[int]]
"""A pair of texts, and the tokens of its context, which start with [CLS], and of its continuation."""


@register_model("ettin-encoder")
class EncoderLM(TemplateLM):
    """Scores and generates continuations with an encoder; masked_inputs.py defines the model inputs."""

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
        """Wrap a model, or load it from a folder or by its name.

        Args:
            pretrained: a masked language model of transformers in evaluation mode, or its folder or name.
            tokenizer: its tokenizer; loaded with the model if ``pretrained`` is a folder or name.
            protocol: how log-likelihoods are computed; rolling ones and generation are always left to right.
            future_masks: number of [MASK] after the predicted one.
            batch_size: a batch has at most 64 times this many tokens.
            max_batch_size: ignored; the harness passes it to every model.
            device: device of a model that is loaded here.
        """
        super().__init__()
        if isinstance(pretrained, str):
            pretrained, tokenizer = _load(pretrained, device or "cpu")
        self.tokenizer = tokenizer
        self.protocol: EncoderProtocol = protocol
        """Protocol of log-likelihoods; may change between tasks."""
        self._device = pretrained.device
        self._builder = MaskedInputBuilder(
            cls=tokenizer.cls_token_id,
            sep=tokenizer.sep_token_id,
            mask=tokenizer.mask_token_id,
            # RoBERTa's config includes two positions that texts cannot use; its tokenizer has the usable number.
            max_positions=min(pretrained.config.max_position_embeddings, tokenizer.model_max_length),
            future_masks=int(future_masks),
        )
        self._scorer = MaskedScorer(pretrained, tokenizer.pad_token_id, int(batch_size or 1) * _TOKENS_PER_ROW)
        self.progress = RequestProgress()

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._builder.sep

    @property
    def prefix_token_id(self) -> int:
        """The token that starts a text."""
        return self._builder.cls

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return a text's tokens with or without [CLS]; [SEP] is added when a text is scored."""
        tokens: list[int] = self.tokenizer.encode(string, add_special_tokens=False)
        return tokens if add_special_tokens is False else [self._builder.cls, *tokens]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether it is the greedy one."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def _loglikelihood_tokens(
        self, requests: list[TokenizedRequest], disable_tqdm: bool = True, **_: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context[1:], continuation) for _, context, continuation in requests]
        scores = iter(self._score(pairs, full_context=self.protocol == "pll"))
        return [_sum(list(islice(scores, len(continuation)))) for _, continuation in pairs]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Return the log-likelihood of complete texts; long ones are split into chunks as the harness does."""
        chunks = [self._chunks(*request.args) for request in requests]
        scores = iter(self._score([chunk for of_text in chunks for chunk in of_text], full_context=False))
        return [
            sum(_sum(list(islice(scores, len(continuation))))[0] for _, continuation in of_text) for of_text in chunks
        ]

    def _chunks(self, text: str) -> list[tuple[list[int], list[int]]]:
        """Return the contexts and continuations into which the harness splits a text."""
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text, add_special_tokens=False),
            prefix_token=self._builder.cls,
            max_seq_len=self._builder.max_positions - 2 - self._builder.future_masks,
            context_len=1,
        )
        disjoint = [make_disjoint_window(window) for window in windows]
        return [
            (context[1:] if context[0] == self._builder.cls else context, continuation)
            for context, continuation in disjoint
        ]

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]], *, full_context: bool) -> list[TokenScore]:
        """Score all tokens of all continuations, in order."""
        build = self._builder.full_context if full_context else self._builder.left_to_right
        self.progress.num_truncated += sum(self._builder.is_truncated(*pair) for pair in pairs)
        total = sum(len(continuation) for _, continuation in pairs)

        def targets() -> Iterator[Target]:
            for context, continuation in pairs:
                yield from zip(build(context, continuation), continuation, strict=True)

        return self._scorer.score(targets(), lambda done: self.progress.update(done, total))

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Continue each text greedily, with the most likely token at an appended [MASK], until a stop sequence.

        Raises:
            ConfigError: a task requests random sampling.
        """
        prompts = [self._prompt(*request.args) for request in requests]

        def decode(tokens: list[int]) -> str:
            return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

        continuations = generate(self._scorer, self._builder, prompts, decode, self.progress.update)
        return [
            postprocess_generated_text(decode(continuation), prompt.stops, None)
            for continuation, prompt in zip(continuations, prompts, strict=True)
        ]

    def _prompt(self, text: str, settings: dict[str, Any]) -> Prompt:
        options = normalize_gen_kwargs(settings, min(_MAX_NEW_TOKENS, self._builder.max_positions // 2))
        if options.get("do_sample"):
            raise ConfigError("an encoder generates greedily only; this task requests random sampling")
        max_new_tokens = options["max_gen_toks"]
        tokens = self.tok_encode(text, add_special_tokens=False)
        room = max(1, self._builder.max_positions - 3 - self._builder.future_masks - max_new_tokens)
        self.progress.num_truncated += len(tokens) > room
        return Prompt(tokens[-room:], handle_stop_sequences(list(options["until"]), eos=None), max_new_tokens)


def _sum(scores: Sequence[TokenScore]) -> tuple[float, bool]:
    return sum(score.log_prob for score in scores), all(score.is_best for score in scores)


def _load(name: str, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    return AutoModelForMaskedLM.from_pretrained(name).eval().to(device), AutoTokenizer.from_pretrained(name)
