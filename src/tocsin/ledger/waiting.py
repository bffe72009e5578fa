"""Calls that wait for the store, or for what other processes give back."""

import asyncio
from collections.abc import Sequence

import msgspec

from tocsin.ledger.diary import Key
from tocsin.ledger.pools import Four, Pool, Purse
from tocsin.store.ledger_api import EVERY, Answer, Turned

RECALL_S = 2.0
"""How long a call waits for others to give back before it is refused."""


class Shortfall(msgspec.Struct, frozen=True):
    """Where a reservation failed: ``unit`` indexes ``Amounts``."""

    pool: Pool
    unit: int


class Waiter:
    """A call that waits for a round."""

    __slots__ = ("ask", "deadline", "ending", "future", "purses", "recalls", "short", "turns")

    def __init__(
        self,
        purses: Sequence[Purse],
        ask: Four,
        short: list[Pool],
        at: float,
        ending: frozenset[asyncio.Future[None]],
    ) -> None:
        self.purses = purses
        self.ask = ask
        self.short = short
        self.deadline = at + RECALL_S
        self.ending = ending
        """Calls that were over when this one began, and of which it is not known yet what they
        took."""
        self.recalls: dict[Key, int] = {}
        """Recalls that were begun after this call began to wait."""
        self.turns = 0
        self.future: asyncio.Future[int | Shortfall] = asyncio.get_running_loop().create_future()

    def learn(self, result: Turned) -> None:
        """Take in a turn in which this call was asked for."""
        self.turns += 1
        for answer in result.answers:
            if answer.recalled:
                self.recalls.setdefault((answer.account, answer.start), answer.recalled)

    @property
    def ended(self) -> bool:
        """Whether it is known what the calls before this one took."""
        return all(future.done() for future in self.ending)

    @property
    def asked(self) -> bool:
        """Whether it is for others to answer now."""
        return self.turns > 0 and (not self.ended or any(map(self._awaits, self.short)))

    def _awaits(self, pool: Pool) -> bool:
        answer = pool.answer
        return answer is not None and answer.short and not self.answered(pool, answer)

    def answered(self, pool: Pool, answer: Answer) -> bool:
        """Whether all who have anything of it have said what, after this call began to wait."""
        return answer.answered >= self.recalls.get(pool.key, EVERY)
