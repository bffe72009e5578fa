"""What the C library keeps of freed memory: little, in a process that runs for months."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_ARENA_MAX = -1, -8
"""Of ``malloc.h`` of the GNU C library."""
_MIB = 1024 * 1024


def keep_little() -> None:
    """Share one heap among all threads, of which each would otherwise keep one of its own, and give
    back what is free at its end. To be called before threads start; does nothing elsewhere."""
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_TRIM_THRESHOLD, _MIB)
