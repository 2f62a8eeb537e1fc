"""Requests that were on engines when these died, and who of them may share an engine meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from serve_app.admission.requests import Request

# One engine may die of anything. Those who were there go on apart from each other, as far as there are
# engines. Those who were on two that died do not share a third: where that dies too, it is known who is to
# blame, and nobody else has lost three.
MAX_SHARED_DEATHS = 2


class Suspects:
    """Requests that were on engines when these died.

    A request with sequences on several engines that have died was on all of them. Nobody is to blame for an
    engine that Serve had taken out before (it had drained for as long as it may), or that had sequences of an
    ingress which was forgotten: they may have been there, too.
    """

    def __init__(self) -> None:
        # Of each dead replica that still has sequences: how many requests were there. 0: nobody is to blame.
        self._num_aboard: dict[str, int] = {}
        self._requests: set[Request] = set()

    def __len__(self) -> int:
        return len(self._requests)

    def died(self, replica: str, aboard: Collection[Request]) -> None:
        """A replica has died, with these requests. Of effect once."""
        if replica in self._num_aboard:
            return
        self._num_aboard[replica] = len(aboard)
        for request in aboard:
            self.restore(request, {replica})

    def num_aboard(self, replica: str) -> int:
        """How many requests were on a replica that died; 0 where nobody is to blame."""
        return self._num_aboard.get(replica, 0)

    def clear(self, replica: str) -> None:
        """Nobody is to blame for the death of this replica, or for one that is still to come."""
        self._num_aboard[replica] = 0
        for request in list(self._requests):
            self.acquit(request, replica)

    def acquit(self, request: Request, replica: str) -> None:
        """This request was not there."""
        request.deaths.discard(replica)
        if not request.deaths:
            self._requests.discard(request)

    def left(self, replica: str) -> None:
        """The last sequence has left a replica."""
        self._num_aboard.pop(replica, None)

    def restore(self, request: Request, deaths: Collection[str]) -> None:
        """These replicas have died with it, as its ingress knows."""
        request.deaths.update(deaths)
        if request.deaths:
            self._requests.add(request)

    def forget(self, request: Request) -> None:
        """A request is over."""
        self._requests.discard(request)

    def company(self, request: Request) -> tuple[Counter[str], set[str]]:
        """By replica, how many others are there that were with it at a death; and where it must not go."""
        beside: Counter[str] = Counter()
        barred: set[str] = set()
        if request.deaths:
            for other in self._requests:
                num_shared = len(request.deaths & other.deaths) if other is not request else 0
                replicas = (
                    {one.replica for one in other.sequences.values() if one.replica} if num_shared else ()
                )
                beside.update(replicas)
                if num_shared >= MAX_SHARED_DEATHS:
                    barred.update(replicas)
        return beside, barred
