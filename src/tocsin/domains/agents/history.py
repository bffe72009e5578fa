"""Which messages of a call the run has not been seen to have, in time proportional to those."""

from collections.abc import Sequence

import msgspec

from tocsin.core.messages import Hash, Message
from tocsin.domains.agents.novelty import Memory

_TAILS = 16
"""Histories of a run that are known by their ends: one for each agent that takes part."""
_END = 3
"""Messages at a history's end that tell it: a reminder that an app adds to each call does not."""
_ENOUGH = 8
"""Known messages in a row after which everything before is taken to be known, too."""
_MOST = 512
"""New messages of one call that are looked at: the latest ones."""


class New(msgspec.Struct, frozen=True):
    """Messages that a call adds. ``grown``: the history is an earlier one with more at its end.

    ``inserted`` counts leading messages that stand before known ones: an app put them into the
    history (a summary, a reminder), nobody said them now. ``fresh``: no message but perhaps a
    system prompt was known.
    """

    messages: Sequence[Message]
    grown: bool
    inserted: int = 0
    fresh: bool = False


class Histories:
    """The messages a run has been seen to have; bounded, whatever the run's length."""

    def __init__(self) -> None:
        self._tails: list[tuple[int, tuple[Hash, ...]]] = []
        self._seen: Memory[Hash] = Memory(2048)

    def know(self, message: Message) -> None:
        """Take a message for known: an answer, before a history brings it back."""
        self._seen.add((message.hash,))

    def new(self, messages: Sequence[Message]) -> New:
        """What this history adds; from now on it is known."""
        found = self._grown(messages) or self._rewritten(messages)
        self._seen.add([message.hash for message in found.messages])
        if messages:
            self._tails.insert(0, (len(messages), _end(messages, len(messages))))
            del self._tails[_TAILS:]
        return found

    def _grown(self, messages: Sequence[Message]) -> New | None:
        """The common case: an earlier history, and more."""
        best = -1
        longest, size = -1, len(messages)
        for index, (length, end) in enumerate(self._tails):
            if (
                longest < length <= size
                # The last message tells most of them apart.
                and (not length or messages[length - 1].hash == end[-1])
                and _end(messages, length) == end
            ):
                best, longest = index, length
        if best < 0:
            return None
        length, _ = self._tails.pop(best)
        added = messages[max(length, len(messages) - _MOST) :]
        return New(added, grown=True)

    def _rewritten(self, messages: Sequence[Message]) -> New:
        """A history that was compacted, cut or put together anew: look for what is unknown."""
        found: list[Message] = []
        known, any_known, behind = 0, False, 0
        recent, older = self._seen.sets
        for index in range(len(messages) - 1, -1, -1):
            message = messages[index]
            if message.hash in recent or message.hash in older:
                known += 1
                if message.role not in ("system", "developer"):
                    any_known = True
                if known >= _ENOUGH:
                    break
                continue
            known = 0
            found.append(message)
            behind += any_known
            if len(found) >= _MOST:
                break
        found.reverse()
        return New(found, grown=False, inserted=behind, fresh=not any_known)


def _end(messages: Sequence[Message], length: int) -> tuple[Hash, ...]:
    return tuple([messages[i].hash for i in range(max(0, length - _END), length)])
