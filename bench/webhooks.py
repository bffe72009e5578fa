"""What a webhook costs: messages per second to one receiver, and CPU for each.

A store in a folder, the sender of the product, a receiver on loopback that answers 204 at once; the
messages are in the store when the clock starts.

  python bench/webhooks.py                # 2,000 messages, a few seconds
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import tempfile
import time
from pathlib import Path

from tocsin.config.model import Config, StoreSettings
from tocsin.core.clock import SystemClock
from tocsin.operations.webhooks import Webhooks, message
from tocsin.store import open_store
from tocsin.worker.deliveries import Deliveries

SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()


async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection of the receiver."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r")[0])
            await reader.readexactly(length)
            writer.write(b"HTTP/1.1 204 X\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def measured(folder: Path, count: int) -> dict[str, float]:
    """Send them all."""
    server = await asyncio.start_server(answered, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    config = Config.model_validate({"webhooks": {"app": {"url": url, "secret_env": "S"}}})
    clock = SystemClock()
    store = open_store(StoreSettings(), folder, clock)
    book = store.operations
    webhooks = Webhooks(book, clock, lambda: config.webhooks, {"S": SECRET}, bytes(32))
    now = clock.now_us()
    book.add_deliveries([message("app", url, "bench", {"n": n}, now) for n in range(count)])
    deliveries = Deliveries(book, webhooks, clock, lambda: config, lambda _: None, owner="bench")
    job = deliveries.job()
    start, cpu = time.perf_counter(), time.process_time()
    while book.deliveries(state="pending", limit=1):
        if not await job.run():
            await asyncio.sleep(job.every_s)
    took, used = time.perf_counter() - start, time.process_time() - cpu
    sent = len(book.deliveries(state="delivered", limit=count + 1))
    await deliveries.close()
    server.close()
    store.close()
    return {"delivered": sent, "per_s": round(sent / took), "cpu_ms": round(used * 1000 / sent, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=2000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tocsin-webhooks-") as folder:
        print(json.dumps(asyncio.run(measured(Path(folder), given.messages))))


if __name__ == "__main__":
    main()
