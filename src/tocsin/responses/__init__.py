"""The front door of responses and conversations whose state Tocsin keeps, whoever answers them."""

from tocsin.responses.door import Door
from tocsin.responses.durable import Durable

__all__ = ["Door", "Durable"]
