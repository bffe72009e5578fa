"""Which run a call belongs to, found without any change in the app.

In this order:

1. the ``tocsin-run`` header;
2. the trace id of a W3C ``traceparent``;
3. ``previous_response_id`` or the conversation that the request names;
4. the messages: a call whose messages begin with what an earlier call was asked *and answered*
   continues that call's run. The longest such history counts. Where several runs share it (they
   began alike and were answered alike), the call goes to the one that nothing has continued yet,
   the oldest first; same key, end user and feature before others. If all have been continued, a
   call with the very messages of an earlier one is that call tried again; any other is a fork of
   the run that was continued last;
5. a tool call id that an earlier answer gave out: it still finds the run after the app has cut or
   rewritten the history;
6. a client's own retry of a first call (``x-stainless-retry-count``), by its messages.

Anything else begins a new run. The ``tocsin-parent-run`` header names the run that started this
one; it has no part in finding the run. In particular a call without any answer in its messages
begins a run even if another run began with the same messages.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from tocsin.core.call import Call, Identity
from tocsin.core.clock import Clock
from tocsin.core.ids import derived_id, is_safe_id, new_id
from tocsin.core.interaction import Interaction, RunSource
from tocsin.core.messages import Hash, Message
from tocsin.core.policy import FailureMode, Next, Reply

Lookup = Callable[[Sequence[Hash], Sequence[str]], "Sequence[Seen]"]

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_KEPT = 10_000
"""Histories kept in memory; older ones are looked up in the store."""
_SHARED = 64
"""Runs kept for one and the same history."""
_RETRY_WINDOW_US = 600 * 1_000_000


class Seen(msgspec.Struct, kw_only=True):
    """A recorded call that another may continue."""

    node: Hash
    interaction_id: str
    run_id: str
    conversation_id: str | None
    feature: str
    key_id: str | None
    end_user: str | None
    started_at: int
    continued: int = 0
    """How many calls have continued it; 0 means that it is still the end of its run."""


class _Index:
    """Histories by node, the most recently used ones."""

    def __init__(self) -> None:
        self._seen: OrderedDict[Hash | str, Seen | list[Seen]] = OrderedDict()
        """A list where there are several: hardly ever."""

    def get(self, key: Hash | str) -> list[Seen] | None:
        rows = self._seen.get(key)
        return rows if rows is None or type(rows) is list else [rows]  # type: ignore[list-item]

    def add(self, key: Hash | str, seen: Seen) -> None:
        rows = self._seen.get(key)
        if rows is None:
            self._seen[key] = seen
            if len(self._seen) > _KEPT:
                self._seen.popitem(last=False)
            return
        if not isinstance(rows, list):
            rows = self._seen[key] = [rows]
        if len(rows) >= _SHARED:
            rows.pop(0)
        rows.append(seen)
        self._seen.move_to_end(key)


class IdentityPolicy:
    """Finds the run and the conversation that each call belongs to."""

    name = "identity"
    failure: FailureMode = "open"
    timeout_s = 1.0

    def __init__(self, lookup: Lookup, clock: Clock) -> None:
        self._lookup = lookup
        self._clock = clock
        self._answers = _Index()
        self._asked = _Index()
        self._tools = _Index()
        self._responses = _Index()

    async def __call__(self, call: Call, next: Next) -> Reply:
        identity = self._named(call)
        if identity is None:
            last = _answered(call)
            if last >= 0 and self._answers.get(call.nodes[last].hash) is None:
                await self._recall(call)
            identity = self._stitched(call, last) or self._new(call)
        parent = call.header(b"tocsin-parent-run")
        if parent is not None:
            identity = _child(identity, parent.decode("latin-1"))
        call.draft.identity = identity
        return await next(call)

    # -- what the caller says --

    def _named(self, call: Call) -> Identity | None:
        """The run that the request names, if it does."""
        run = conversation = trace = None
        for name, value in call.headers:
            if name == b"tocsin-run":
                run = value
            elif name == b"tocsin-conversation":
                conversation = value
            elif name == b"traceparent":
                trace = value
        said = conversation.decode("latin-1") if conversation else call.draft.conversation_ref
        said = said if said and is_safe_id(said) else None
        if run is not None and is_safe_id(text := run.decode("latin-1")):
            return self._in_run(call, text, "header", said)
        if trace is not None and (match := _TRACEPARENT.fullmatch(trace)):
            return self._in_run(call, derived_id("run", match[1]), "traceparent", said)
        if response := call.draft.response_ref:
            rows = self._responses.get(response)
            run_id = rows[-1].run_id if rows else derived_id("run", "response", response)
            return self._in_run(call, run_id, "response", said)
        if said is not None:
            return self._in_run(call, derived_id("run", "conversation", said), "conversation", said)
        return None

    def _in_run(
        self, call: Call, run_id: str, source: RunSource, conversation: str | None
    ) -> Identity:
        """An identity in a known run; the messages only tell what is new in the call."""
        for index in range(len(call.nodes) - 1, -1, -1):
            for seen in self._answers.get(call.nodes[index].hash) or ():
                if seen.run_id == run_id:
                    seen.continued += 1
                    return Identity(
                        run_id=run_id,
                        run_source=source,
                        conversation_id=conversation or seen.conversation_id,
                        parent_id=seen.interaction_id,
                        new_from=index + 1,
                    )
        return Identity(run_id=run_id, run_source=source, conversation_id=conversation)

    # -- what the messages say --

    def _stitched(self, call: Call, answered: int) -> Identity | None:
        nodes = call.nodes
        if answered < 0:
            return self._retried(call)
        for index in range(answered, -1, -1):
            rows = self._answers.get(nodes[index].hash)
            if rows:
                return self._continue(call, rows, index)
        for message in reversed(call.messages):
            for answer in message.answers:
                rows = self._tools.get(answer)
                if rows:
                    seen = rows[-1]
                    return self._after(seen, "tool", len(nodes) - 1)
        return None

    def _continue(self, call: Call, rows: list[Seen], index: int) -> Identity:
        end = [seen for seen in rows if not seen.continued]
        if end:
            return self._after(self._best(call, end), "prefix", index + 1)
        asked = self._asked.get(call.nodes[-1].hash)
        if asked:
            seen = self._best(call, asked)
            return Identity(
                run_id=seen.run_id,
                run_source="prefix",
                conversation_id=seen.conversation_id,
                parent_id=seen.interaction_id,
                new_from=len(call.nodes),
            )
        return self._after(rows[-1], "prefix", index + 1)

    def _retried(self, call: Call) -> Identity | None:
        """The first try of a client that says that it retries."""
        count = call.header(b"x-stainless-retry-count")
        if count in (None, b"0") or not call.nodes:
            return None
        earliest = self._clock.now_us() - _RETRY_WINDOW_US
        rows = [s for s in self._asked.get(call.nodes[-1].hash) or () if s.started_at > earliest]
        if not rows:
            return None
        seen = self._best(call, rows[::-1])
        return Identity(
            run_id=seen.run_id,
            run_source="retry",
            conversation_id=seen.conversation_id,
            parent_id=seen.interaction_id,
            new_from=len(call.nodes),
        )

    @staticmethod
    def _best(call: Call, rows: list[Seen]) -> Seen:
        """The first of the rows that match the caller best."""
        if len(rows) == 1:
            return rows[0]
        key, user = call.principal.key_id, call.end_user

        def likeness(seen: Seen) -> int:
            return (
                4 * (seen.key_id == key)
                + 2 * (seen.end_user == user)
                + (seen.feature == call.feature)
            )

        return max(rows, key=likeness)

    @staticmethod
    def _after(seen: Seen, source: RunSource, new_from: int) -> Identity:
        seen.continued += 1
        return Identity(
            run_id=seen.run_id,
            run_source=source,
            conversation_id=seen.conversation_id,
            parent_id=seen.interaction_id,
            new_from=new_from,
        )

    def _new(self, call: Call) -> Identity:
        run_id = new_id("run", call.started_at)
        conversation = "conv_" + run_id[4:] if call.nodes else None
        return Identity(run_id=run_id, run_source="new", conversation_id=conversation)

    # -- memory --

    async def _recall(self, call: Call) -> None:
        """Bring back from the store what this call may continue."""
        nodes = [node.hash for node in call.nodes]
        answers = [answer for message in call.messages[-8:] for answer in message.answers]
        for seen in await asyncio.to_thread(self._lookup, nodes, answers):
            self._answers.add(seen.node, seen)
            for answer in answers:
                self._tools.add(answer, seen)

    def learn(self, call: Call, interaction: Interaction, output: Message | None = None) -> None:
        """Remember a call that ended, so that the next one finds it."""
        identity = call.draft.identity
        if identity is None or interaction.input_node is None:
            return
        seen = Seen(
            node=interaction.output_node or interaction.input_node,
            interaction_id=interaction.id,
            run_id=interaction.run_id,
            conversation_id=interaction.conversation_id,
            feature=interaction.feature,
            key_id=interaction.key_id,
            end_user=interaction.end_user,
            started_at=interaction.started_at,
        )
        if interaction.output_node is not None:
            self._answers.add(interaction.output_node, seen)
        self._asked.add(interaction.input_node, seen)
        if interaction.response_id:
            self._responses.add(interaction.response_id, seen)
        for tool_id in call.draft.tool_ids:
            self._tools.add(tool_id, seen)


def _child(identity: Identity, parent: str) -> Identity:
    """The identity with its parent run, where that can be one."""
    if not is_safe_id(parent) or parent == identity.run_id:
        return identity
    return msgspec.structs.replace(identity, parent_run_id=parent)


def _answered(call: Call) -> int:
    """Index of the last answer in a call's messages, -1 when there is none."""
    for index in range(len(call.messages) - 1, -1, -1):
        if call.messages[index].role == "assistant":
            return index
    return -1
