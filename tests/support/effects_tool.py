"""A tool in a process of its own: charges each number once, over HTTP, until it is killed.

``python effects_tool.py CONFIG BANK COUNT [find]`` prints one line for each charge.
"""

import json
import sys
import urllib.error
import urllib.request
from typing import Any

from tocsin.sdk import EffectUnknown, Tocsin


def ask(url: str, data: bytes | None = None) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=30) as reply:
        return json.load(reply)


def main(config: str, bank: str, count: int, finds: bool) -> None:
    tocsin = Tocsin(path=config)

    @tocsin.once("charge_card")
    def charge(number: int, *, key: str) -> Any:
        return ask(f"{bank}/{key}", json.dumps(number).encode())

    if finds:

        @charge.finder
        def find(key: str) -> Any:
            return ask(f"{bank}/{key}")

    with tocsin, tocsin.operation("op_charges"):
        for number in range(count):
            try:
                print(json.dumps([number, charge(number)]), flush=True)
            except EffectUnknown:
                print(json.dumps([number, "unknown"]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), "find" in sys.argv[4:])
