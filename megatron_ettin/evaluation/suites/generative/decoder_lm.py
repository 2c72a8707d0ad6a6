"""The harness's own ``hf`` model for decoders, with the token that begins a text exactly once."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from megatron_ettin.evaluation.suites.generative.harness import RequestProgress

_PORTION = 1024
"""Requests between two signs of progress."""


class DecoderLM(HFLM):
    """``HFLM`` with ``add_bos_token=True``, told to be silent and to say how far it is."""

    def __init__(self, model: Any, tokenizer: Any, *, batch_size: int) -> None:
        """Take a causal language model of transformers on its device, and its tokenizer."""
        self.progress = RequestProgress()
        super().__init__(
            pretrained=model,
            tokenizer=begin_texts_once(tokenizer),
            batch_size=batch_size,
            add_bos_token=True,
        )

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Return each continuation's log-likelihood after its context, and whether each token was the likeliest."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Return the log-likelihood of whole texts after the token that begins one.

        The harness sets that token itself here, so the tokenizer must not.
        """
        self.add_bos_token, before = False, self.add_bos_token
        try:
            answers: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
        finally:
            self.add_bos_token = before
        return answers

    def _loglikelihood_tokens(self, requests: list[Any], disable_tqdm: bool = True, **settings: Any) -> list[Any]:
        """Answer requests in portions of like length, and tell after each."""
        chunks = [(index, chunk) for index, request in enumerate(requests) for chunk in self._fitting(request)]
        chunks.sort(key=lambda chunk: -len(chunk[1][1]) - len(chunk[1][2]))
        self.progress.num_cut += sum(len(r[1]) + len(r[2]) > self.max_length + 1 for r in requests)
        answers: list[Any] = [(0.0, True)] * len(requests)
        for start in range(0, len(chunks), _PORTION):
            portion = chunks[start : start + _PORTION]
            told = super()._loglikelihood_tokens([chunk for _, chunk in portion], disable_tqdm=True, **settings)
            for (index, _), (log_prob, is_best) in zip(portion, told, strict=True):
                answers[index] = (answers[index][0] + log_prob, answers[index][1] and is_best)
            self.progress.tell(start + len(portion), len(chunks))
        return answers

    def _fitting(self, request: Any) -> Iterator[Any]:
        """Yield a request as it is, or in chunks where its continuation is longer than the model's positions.

        The harness fails on such a one. Each token of a chunk sees at least half as many tokens as there are positions.
        """
        asked, context, ending = request
        if len(ending) <= self.max_length:
            yield request
            return
        size = max(1, self.max_length // 2)
        for start in range(0, len(ending), size):
            yield (asked, [*context, *ending[:start]], ending[start : start + size])

    @property
    def max_gen_toks(self) -> int:
        """Tokens to generate where a task does not say; the harness's 256, or what leaves room for half a prompt."""
        return min(int(super().max_gen_toks), self.max_length // 2)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Continue each text, greedily where the task does not say otherwise, until one of its stops."""
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].args[0]))
        answers = [""] * len(requests)
        for start in range(0, len(order), self.batch_size):
            portion = order[start : start + self.batch_size]
            told = super().generate_until([requests[i] for i in portion], disable_tqdm=True)
            for index, answer in zip(portion, told, strict=True):
                answers[index] = answer
            self.progress.tell(start + len(portion), len(order))
        return answers


def begin_texts_once(tokenizer: Any) -> Any:
    """Return a tokenizer of this family that begins a text with [CLS], as [BOS], once and does not close it.

    Some decoders come with their encoder's tokenizer: it closes each text with [SEP], after which nothing continues it,
    or names no [BOS]. A tokenizer that is right, or of another family, comes back as it is.
    """
    begin = tokenizer.cls_token
    if begin is None:
        return tokenizer
    bare = tokenizer.encode("a", add_special_tokens=False)
    is_right = tokenizer.encode("a") == [tokenizer.cls_token_id, *bare]
    if is_right and tokenizer.bos_token and tokenizer.eos_token:
        return tokenizer
    from tokenizers import processors

    mended = copy.deepcopy(tokenizer)
    mended.bos_token, mended.eos_token = begin, tokenizer.eos_token or tokenizer.sep_token
    if not is_right:
        special = [(begin, tokenizer.cls_token_id)]
        mended.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=special
        )
    return mended
