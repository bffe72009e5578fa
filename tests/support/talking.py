"""Tocsin's HTTP API as tests ask it: small, blocking, and for threads."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any


def ask(
    url: str, key: str | None = None, body: Any = None, method: str | None = None, **headers: str
) -> tuple[int, Any]:
    """Status and JSON of one request; a ``body`` makes it a POST. Header names with ``_``."""
    data = None if body is None else json.dumps(body).encode()
    said = {name.replace("_", "-"): value for name, value in headers.items()}
    said["content-type"] = "application/json"
    if key is not None:
        said["authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, data, said, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status), json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


def until(found: Callable[[], Any], timeout_s: float = 15) -> Any:
    """What ``found`` returns, once it is true."""
    end = time.monotonic() + timeout_s
    while not (value := found()):
        assert time.monotonic() < end, f"not within {timeout_s} s"
        time.sleep(0.02)
    return value
