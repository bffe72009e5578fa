"""Durable operations: work that outlives the process that began it, and its event log."""

from tocsin.operations.endings import Told, is_uncertain, nobody
from tocsin.operations.engine import Operations
from tocsin.operations.settings import Settings, settings_of
from tocsin.operations.work import Ask

__all__ = ["Ask", "Operations", "Settings", "Told", "is_uncertain", "nobody", "settings_of"]
