"""What a file format is."""

from collections.abc import Callable, Iterator

import msgspec

from tocsin.core.interaction import Entry
from tocsin.importers.files import BadRecord, Sample, Source

Records = Iterator[Entry | BadRecord]


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """A file format. ``matches`` looks at a file's beginning, ``read`` yields what it holds."""

    name: str
    title: str
    matches: Callable[[Sample], bool]
    read: Callable[[Source], Records]
