"""Names of processes that work, from which others on the same machine can tell that one is gone.

A name holds the machine's boot, the namespace of process ids, the process id and the time at which
the process started. So a restarted Tocsin knows at once that its former self is dead; about
processes elsewhere only their beats tell.
"""

import os
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex

_STARTED = 19
"""Where a process's start stands in ``/proc/PID/stat``, counted after the command's name."""


def new_owner() -> str:
    """A name for this process that no other has, nor this one after ``fork`` or a restart."""
    pid = os.getpid()
    return f"own_{_place()}_{pid}_{_started(pid) or 0}_{token_hex(4)}"


def is_gone(owner: str) -> bool:
    """Whether that process is certainly dead. ``False`` when nobody here can tell."""
    parts = owner.split("_")
    if len(parts) != 5 or parts[1] != _place() or not parts[2].isdigit() or parts[3] == "0":
        return False
    return _started(int(parts[2])) != parts[3]


def _place() -> str:
    """Within which process ids mean something: this boot of this machine, this namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        return token_hex(6)
    return blake2b(f"{boot}{space}".encode(), digest_size=6).hexdigest()


def _started(pid: int) -> str | None:
    """When a running process started, in ticks since the boot; ``None``: there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[_STARTED]
