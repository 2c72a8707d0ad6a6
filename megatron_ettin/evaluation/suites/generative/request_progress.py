"""What a model tells about its requests while it answers them."""

from __future__ import annotations

from collections.abc import Callable


class RequestProgress:
    """How far a model is, and how many requests were too long for it."""

    def __init__(self) -> None:
        """Begin with nobody listening."""
        self.listener: Callable[[float], None] = lambda _: None
        self.num_cut = 0
        """Requests whose text lost its beginning."""

    def tell(self, done: int, total: int) -> None:
        """Tell the listener which share of the requests is answered."""
        self.listener(done / max(total, 1))
