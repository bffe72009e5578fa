"""Evaluating and detecting in a process of its own.

The interpreter runs one thread at a time, and evaluators and detectors compute for some
milliseconds a call: in the process that serves, calls would wait for them. The process begins when
there is something to look at, ends with the one that began it, and before that when there was
nothing for long and no alert fires.
"""

import contextlib
import json
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from tocsin.store.api import Store
from tocsin.worker.detecting import SCORED, Detecting
from tocsin.worker.evaluating import CONSUMER, FEEDBACK, Evaluating, begin
from tocsin.worker.jobs import Job
from tocsin.worker.quiet import quietly

log = logging.getLogger("tocsin.evaluating")

IDLE_S = 1800.0
"""After so long without anything to look at the process ends, unless an alert fires."""
_EVERY_S = 1.0
_PATIENCE_S = 5.0
_AGAIN_S = 30.0
"""How long after a process died early the next one begins."""


class Apart:
    """Keeps a process that evaluates and detects, as long as there is something to look at.

    ``command`` starts it; it reads ``settings`` as one line from its standard input, works until
    that ends, and tells what troubles it as lines of JSON.
    """

    def __init__(self, store: Store, command: Sequence[str], settings: Callable[[], bytes]) -> None:
        self._store = store
        self._command = tuple(command)
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._given = b""
        self._begin_at = 0.0
        self._begun = False
        self.trouble: dict[str, str] = {}
        """Last error by evaluator or detector, as the process tells."""

    def job(self) -> Job:
        """The worker's job of looking after the process."""
        return Job(
            name=CONSUMER,
            every_s=_EVERY_S,
            run=self._run,
            trouble=lambda: dict(self.trouble),
            stop=self.stop,
        )

    async def _run(self) -> bool:
        await quietly(self.step)
        return False

    def step(self) -> None:
        """Begin, begin anew with other settings, or notice the end. Raises ``StoreError``."""
        if not self._begun:
            # Here and not in the process: calls that come while it starts are news.
            begin(self._store)
            self._begun = True
        process = self._process
        if process is not None and process.poll() is not None:
            self._ended(process)
            process = None
        if process is not None:
            if self._settings() != self._given:
                self.stop()
            else:
                return
        if time.monotonic() >= self._begin_at and self._behind():
            self._begin()

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._process is None else self._process.pid

    def stop(self) -> None:
        """End the process once its batch is kept."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            # Nothing is lost: what is not committed is done again.
            process.kill()
            process.wait()

    def _behind(self) -> bool:
        store = self._store
        return bool(
            store.after(store.cursor(CONSUMER), limit=1)
            or store.feedback_after(store.cursor(FEEDBACK), limit=1)
            or store.scored_upto() > store.cursor(SCORED)
            # A detector may have to be asked before it says that this is over.
            or store.alerts(firing=True, limit=1)
        )

    def _begin(self) -> None:
        self._given = self._settings()
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._process = process
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(self._given + b"\n")
            process.stdin.flush()
        threading.Thread(
            target=self._listen, args=(process,), name="tocsin-evaluating", daemon=True
        ).start()

    def _listen(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                try:
                    self.trouble = dict(json.loads(line))
                except ValueError:
                    log.warning("the process that evaluates says %r", line[:200])

    def _ended(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = None
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        if process.returncode == 0:
            self.trouble = {}
            return
        self._begin_at = time.monotonic() + _AGAIN_S
        said = f"the process that evaluates ended with {process.returncode}"
        self.trouble = {**self.trouble, "process": said}
        log.warning("%s; another one begins in %g s", said, _AGAIN_S)


def work_until(
    stopped: threading.Event,
    evaluating: Evaluating,
    detecting: Detecting,
    flush: Callable[[], bool],
    tell: Callable[[dict[str, str]], None],
    *,
    needed: Callable[[], bool],
    idle_s: float = IDLE_S,
) -> None:
    """What the process does: evaluate and detect until told to stop, or idle for long.

    ``flush`` writes what detectors said beside their alerts. ``tell`` is called with what troubles
    the process whenever that changes; ``needed`` says whether it must stay, however idle.
    """
    told: dict[str, str] = {}
    idle_since = time.monotonic()
    # First: what is scored from now on is news, also where nobody has detected anything before.
    _tried("detecting", detecting.step, {})
    try:
        while not stopped.is_set():
            took, found = _turn(evaluating, detecting, flush)
            if found != told:
                told = found
                tell(dict(found))
            if took:
                idle_since = time.monotonic()
                continue
            if time.monotonic() - idle_since >= idle_s and not _asked(needed):
                return
            stopped.wait(_EVERY_S)
    finally:
        _tried("detectors", detecting.save, {})
        _tried("desk", flush, {})


def _turn(
    evaluating: Evaluating, detecting: Detecting, flush: Callable[[], bool]
) -> tuple[bool, dict[str, str]]:
    """One turn of everything; whether there is more to do at once, and what is in trouble."""
    trouble: dict[str, str] = {}
    more = bool(_tried("evaluating", evaluating.step, trouble))
    more |= bool(_tried("detecting", detecting.step, trouble))
    more |= bool(_tried("desk", flush, trouble))
    return more, {**evaluating.trouble, **detecting.trouble, **trouble}


def _tried(name: str, work: Callable[[], object], trouble: dict[str, str]) -> object:
    try:
        return work()
    except Exception as error:
        log.exception("%s failed; trying again", name)
        trouble[name] = f"{type(error).__name__}: {error}"
        return None


def _asked(needed: Callable[[], bool]) -> bool:
    """Whether it must stay; when nobody can tell, it does."""
    return _tried("looking for alerts", needed, {}) is not False


__all__ = ["Apart", "work_until"]
