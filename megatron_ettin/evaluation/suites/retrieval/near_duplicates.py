"""Near-identical functions, as Allamanis 2019 (arXiv:1812.06469) finds them, the method that CodeSearchNet used.

Two pieces of code are near-identical when the sets of their words (identifiers and literals) have a Jaccard similarity
of at least 0.8 and the multisets one of at least 0.7.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

SET_SIMILARITY = 0.8
MULTISET_SIMILARITY = 0.7

_WORD = re.compile(r"\w+")


def keep_different(codes: Sequence[str]) -> list[int]:
    """Return the indices of codes that are near-identical to none kept before them.

    Sets with a Jaccard similarity of t share one of the rarest len - ceil(t * len) + 1 words of each (prefix filter:
    Chaudhuri et al. 2006), so that few pairs are ever compared, and none is missed.
    """
    words = [Counter(_WORD.findall(code)) for code in codes]
    frequency = Counter(word for counts in words for word in counts)
    kept: list[int] = []
    kept_by_word: dict[str, list[int]] = defaultdict(list)
    for index, counts in enumerate(words):
        rare_first = sorted(counts, key=lambda word: (frequency[word], word))
        prefix = rare_first[: len(counts) - math.ceil(SET_SIMILARITY * len(counts)) + 1]
        candidates = {other for word in prefix for other in kept_by_word[word]}
        if any(are_near(counts, words[other]) for other in candidates):
            continue
        kept.append(index)
        for word in prefix:
            kept_by_word[word].append(index)
    return kept


def are_near(first: Counter[str], second: Counter[str]) -> bool:
    """Whether two bags of words are near-identical."""
    shared = len(first.keys() & second.keys())
    if shared < SET_SIMILARITY * (len(first) + len(second) - shared):
        return False
    return (first & second).total() >= MULTISET_SIMILARITY * (first | second).total()
