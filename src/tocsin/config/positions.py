"""On which line of a TOML text each setting stands.

``tomllib`` forgets where a value came from, and a message about a setting is worth little without
its line. This walks a text that ``tomllib`` has already accepted, so it needs no error handling of
its own.
"""

from collections.abc import Mapping

Path = tuple[str | int, ...]

_SPACE = " \t"
_BLANK = " \t\r\n"


def positions(text: str) -> Mapping[Path, int]:
    """Line (from 1) of every key, table and array element of a valid TOML text."""
    return _Walker(text).walk()


class _Walker:
    """One pass over the text; ``at`` is the index of the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self.elements: dict[Path, int] = {}
        """Last index used in each array of tables."""

    def walk(self) -> Mapping[Path, int]:
        table: Path = ()
        while self._skip_blank() < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
        return self.lines

    def _mark_all(self, path: Path) -> None:
        """Note the line of ``path`` and of what encloses it, where that is not known yet."""
        line = self.text.count("\n", 0, self.at) + 1
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)

    def _skip_blank(self) -> int:
        """Skip white space, line ends and comments; returns where that leads."""
        while self.at < len(self.text):
            if self.text[self.at] == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif self.text[self.at] in _BLANK:
                self.at += 1
            else:
                break
        return self.at

    def _skip(self, characters: str) -> None:
        while self.at < len(self.text) and self.text[self.at] in characters:
            self.at += 1

    def _header(self) -> Path:
        """``[a.b]`` or ``[[a.b]]``; returns the path of the table that it opens."""
        brackets = 2 if self.text.startswith("[[", self.at) else 1
        start, self.at = self.at, self.at + brackets
        keys = self._key()
        end, self.at = self.at + brackets, start
        path = (*self._resolve(keys[:-1]), keys[-1])
        self._mark_all(path)
        if brackets == 2:
            self.elements[path] = self.elements.get(path, -1) + 1
            path = (*path, self.elements[path])
            self._mark_all(path)
        self.at = end
        return path

    def _resolve(self, keys: tuple[str, ...]) -> Path:
        """A header's path, with the current element of every array of tables on the way."""
        path: Path = ()
        for key in keys:
            path = (*path, key)
            if path in self.elements:
                path = (*path, self.elements[path])
        return path

    def _key(self) -> tuple[str, ...]:
        """A bare, quoted or dotted key."""
        parts = []
        while True:
            self._skip(_SPACE)
            if self.text[self.at] in "\"'":
                parts.append(self._string())
            else:
                start = self.at
                while self.text[self.at] not in " \t.=]":
                    self.at += 1
                parts.append(self.text[start : self.at])
            self._skip(_SPACE)
            if self.text[self.at] != ".":
                return tuple(parts)
            self.at += 1

    def _pair(self, table: Path) -> None:
        start = self.at
        path: Path = (*table, *self._key())
        end, self.at = self.at, start
        self._mark_all(path)
        self.at = end + 1  # past the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: Path) -> None:
        """Skip one value, marking what lies inside it."""
        character = self.text[self.at]
        if character in "\"'":
            self._string()
        elif character == "[":
            self._array(path)
        elif character == "{":
            self._inline_table(path)
        else:
            while self.at < len(self.text) and self.text[self.at] not in ",]}#\n":
                self.at += 1

    def _array(self, path: Path) -> None:
        self.at += 1
        index = 0
        while self.text[self._skip_blank()] != "]":
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self._mark_all((*path, index))
            self._value((*path, index))
            index += 1
        self.at += 1

    def _inline_table(self, path: Path) -> None:
        self.at += 1
        while self.text[self._skip_blank()] != "}":
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self._pair(path)
        self.at += 1

    def _string(self) -> str:
        """Skip a string of any kind; returns what stands between its quotes, escapes as written."""
        quote = self.text[self.at]
        fence = quote * 3 if self.text.startswith(quote * 3, self.at) else quote
        start = self.at = self.at + len(fence)
        while not self.text.startswith(fence, self.at):
            escaped = quote == '"' and self.text[self.at] == "\\"
            self.at += 2 if escaped else 1
        end = self.at
        self.at += len(fence)
        # A multi-line string may end in one or two quotes of its own before the fence.
        while len(fence) == 3 and self.text.startswith(quote, self.at):
            self.at += 1
        return self.text[start:end]
