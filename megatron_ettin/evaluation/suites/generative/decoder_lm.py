"""The harness's ``hf`` model for decoders, with exactly one token that starts a text."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from megatron_ettin.evaluation.suites.generative.harness import RequestProgress

_REQUESTS_PER_REPORT = 1024
"""Requests between two progress reports."""


class DecoderLM(HFLM):
    """``HFLM`` with ``add_bos_token=True``, without progress bars of its own, that reports progress."""

    def __init__(self, model: Any, tokenizer: Any, *, batch_size: int) -> None:
        """Wrap a causal language model of transformers on its device, and its tokenizer."""
        self.progress = RequestProgress()
        super().__init__(
            pretrained=model,
            tokenizer=with_single_start_token(tokenizer),
            batch_size=batch_size,
            add_bos_token=True,
        )

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether it is the greedy one."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Return the log-likelihood of complete texts after the start token.

        The harness adds that token itself here, so the tokenizer must not.
        """
        self.add_bos_token, before = False, self.add_bos_token
        try:
            answers: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
        finally:
            self.add_bos_token = before
        return answers

    def _loglikelihood_tokens(self, requests: list[Any], disable_tqdm: bool = True, **settings: Any) -> list[Any]:
        """Answer requests in groups of similar length, and report progress after each group."""
        chunks = [(index, chunk) for index, request in enumerate(requests) for chunk in self._fitting(request)]
        chunks.sort(key=lambda chunk: -len(chunk[1][1]) - len(chunk[1][2]))
        self.progress.num_truncated += sum(len(r[1]) + len(r[2]) > self.max_length + 1 for r in requests)
        answers: list[Any] = [(0.0, True)] * len(requests)
        for start in range(0, len(chunks), _REQUESTS_PER_REPORT):
            group = chunks[start : start + _REQUESTS_PER_REPORT]
            scores = super()._loglikelihood_tokens([chunk for _, chunk in group], disable_tqdm=True, **settings)
            for (index, _), (log_prob, is_greedy) in zip(group, scores, strict=True):
                answers[index] = (answers[index][0] + log_prob, answers[index][1] and is_greedy)
            self.progress.update(start + len(group), len(chunks))
        return answers

    def _fitting(self, request: Any) -> Iterator[Any]:
        """Yield a request, in chunks if its continuation is longer than the model's positions.

        The harness fails on such a request. Each token of a chunk is conditioned on at least half as many tokens as
        there are positions.
        """
        texts, context, continuation = request
        if len(continuation) <= self.max_length:
            yield request
            return
        size = max(1, self.max_length // 2)
        for start in range(0, len(continuation), size):
            yield (texts, [*context, *continuation[:start]], continuation[start : start + size])

    @property
    def max_gen_toks(self) -> int:
        """Tokens to generate if a task does not set a limit: the harness's 256, or half the positions if fewer."""
        return min(int(super().max_gen_toks), self.max_length // 2)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Continue each text until a stop sequence, greedily unless the task requests sampling."""
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].args[0]))
        answers = [""] * len(requests)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            texts = super().generate_until([requests[i] for i in batch], disable_tqdm=True)
            for index, text in zip(batch, texts, strict=True):
                answers[index] = text
            self.progress.update(start + len(batch), len(order))
        return answers


def with_single_start_token(tokenizer: Any) -> Any:
    """Return a tokenizer of this family that adds [CLS], which is also its BOS, once at the start and no end token.

    Some decoders come with the tokenizer of their encoder, which ends each text with [SEP], after which no continuation
    is likely, or has no BOS token. A tokenizer that is correct, or of another family, is returned unchanged.
    """
    start = tokenizer.cls_token
    if start is None:
        return tokenizer
    bare = tokenizer.encode("a", add_special_tokens=False)
    has_template = tokenizer.encode("a") == [tokenizer.cls_token_id, *bare]
    if has_template and tokenizer.bos_token and tokenizer.eos_token:
        return tokenizer
    from tokenizers import processors

    fixed = copy.deepcopy(tokenizer)
    fixed.bos_token, fixed.eos_token = start, tokenizer.eos_token or tokenizer.sep_token
    if not has_template:
        special = [(start, tokenizer.cls_token_id)]
        fixed.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=special
        )
    return fixed
