"""``Runtime``: the request path. Policies around a dispatcher, every call recorded once."""

import logging
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from tocsin.core.call import Call
from tocsin.core.clock import Clock
from tocsin.core.errors import CallError
from tocsin.core.interaction import Interaction, Mode
from tocsin.core.messages import Message
from tocsin.core.policy import Next, Policy
from tocsin.core.redact import Redactor
from tocsin.runtime.exchange import Exchange
from tocsin.runtime.meaning import Judge
from tocsin.runtime.policies import Watch, nest
from tocsin.runtime.recorder import Recorder

log = logging.getLogger("tocsin.runtime")

Modes = Callable[[str, str], Mode]
"""(feature, policy name) → mode."""


@runtime_checkable
class Learner(Protocol):
    """Something that must know of a call's end before its caller does, such as stitching."""

    def learn(self, call: Call, interaction: Interaction, output: Message | None) -> None:
        """``output`` is the answer as far as it came."""
        ...


class Runtime:
    """Embeddable: the gateway and the SDK are thin front doors to it."""

    def __init__(
        self,
        *,
        policies: tuple[Policy, ...],
        modes: Modes,
        dispatch: Next,
        recorder: Recorder,
        clock: Clock,
        learners: tuple[Learner, ...] = (),
        redactor: Redactor | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.judge = judge or Judge()
        self.redactor = redactor or Redactor()
        self.recorder = recorder
        self.clock = clock
        self.watch = Watch()
        self.in_flight: dict[str, Exchange] = {}
        """By call id, until the record is closed: what a stop may cut."""
        self._policies = policies
        self._modes = modes
        self._dispatch = dispatch
        self._learners = learners
        self._onions: dict[str, Next] = {}

    def configure(self, *, modes: Modes, dispatch: Next, redactor: Redactor) -> None:
        """Take over a reloaded configuration; calls in flight keep the old one."""
        self.redactor = redactor
        self._modes = modes
        self._dispatch = dispatch
        self._onions = {}

    def call(self, call: Call) -> Exchange:
        """The exchange of one call: ``async with runtime.call(call) as reply``."""
        return Exchange(self, call)

    def refuse(self, call: Call, error: CallError) -> CallError:
        """Record a call that goes no further; returns ``error`` to be raised."""
        self.recorder.open(call)
        Exchange(self, call).refused(error)
        return error

    def onion(self, feature: str) -> Next:
        """The policies of a feature, nested around the dispatcher."""
        found = self._onions.get(feature)
        if found is None:
            if len(self._onions) > 10_000:  # feature names come from callers
                self._onions = {}
            chosen = tuple((policy, self._modes(feature, policy.name)) for policy in self._policies)
            found = self._onions[feature] = nest(chosen, self._dispatch, self.watch)
        return found

    def learn(self, call: Call, interaction: Interaction, output: Message | None) -> None:
        """Tell the learners; one that fails does not break the call."""
        for learner in self._learners:
            try:
                learner.learn(call, interaction, output)
            except Exception:
                log.exception("%s could not learn of call %s", type(learner).__name__, call.id)

    def enforces(self, feature: str, policy: str) -> bool:
        """Whether a policy acts on a feature's calls, and does not only observe them."""
        return self._modes(feature, policy) == "enforce"

    def modes(self) -> Mapping[str, Mode]:
        """The mode of each policy for a feature without settings of its own."""
        return {policy.name: self._modes("", policy.name) for policy in self._policies}
