"""An owner of slot grants that notes what becomes of them."""

from __future__ import annotations

from serve_app.admission.protocol import Loss
from serve_app.admission.slot_grants import SlotGrant


class Owner:
    """Notes what is released, with its tokens, and what moves. Each sequence that moves has number + 100.

    It then has a slot on `moves_to` at once, if there is such a replica.
    """

    def __init__(self, moves_to: str | None = None) -> None:
        self.moves_to = moves_to
        self.released: list[tuple[int, int]] = []
        self.moves: list[tuple[int, Loss]] = []
        self.moved: list[SlotGrant] = []

    def release(self, number: int, num_tokens: int) -> None:
        self.released.append((number, num_tokens))

    def move(self, number: int, loss: Loss) -> SlotGrant:
        self.moves.append((number, loss))
        self.moved.append(SlotGrant(self, number + 100))
        if self.moves_to:
            self.moved[-1].give(self.moves_to)
        return self.moved[-1]
