"""Threads that give way to calls."""

import contextlib
import os
import sys
import threading

NICENESS = 19


def give_way() -> None:
    """Let other threads run first wherever both could. For the calling thread; on Linux alone,
    since elsewhere niceness belongs to the whole process."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # forbidden here: it keeps the priority that it has
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


__all__ = ["NICENESS", "give_way"]
