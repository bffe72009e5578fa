"""A sender of webhooks in a process of its own: ``python webhook_sender.py FOLDER URL``."""

import asyncio
import base64
import sys
from pathlib import Path

from tocsin.config.model import Config, StoreSettings
from tocsin.core.clock import SystemClock
from tocsin.operations.webhooks import Webhooks, message
from tocsin.store import open_store
from tocsin.worker.deliveries import Deliveries

SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()


async def main(folder: Path, url: str) -> None:
    clock = SystemClock()
    book = open_store(StoreSettings(), folder, clock).operations
    tables = {"webhooks": {"app": {"url": url, "secret_env": "S"}}}
    config = Config.model_validate(tables)
    webhooks = Webhooks(book, clock, lambda: config.webhooks, {"S": SECRET}, b"s" * 32)
    row = message("app", url, "order.paid", {"order": 17}, clock.now_us(), key="order-17")
    book.add_deliveries((row,))
    deliveries = Deliveries(book, webhooks, clock, lambda: config, print, owner="first")
    await deliveries.sender.step()
    await deliveries.sender.settled()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
