"""Logging with every secret taken out on the way to whatever writes it."""

import logging

from tocsin.core.redact import Redactor

_FORMATTER = logging.Formatter()


class RedactFilter(logging.Filter):
    """Put on a handler, it redacts message, arguments, traceback and stack of every record."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def filter(self, record: logging.LogRecord) -> bool:
        redact = self._redactor.text
        try:
            message = record.getMessage()
        except Exception:
            message = f"{record.msg} (its arguments do not fit)"
        record.msg, record.args = redact(message), None
        if record.exc_info and not record.exc_text:
            # Formatters use ``exc_text`` when it is there, so none prints the raw traceback.
            record.exc_text = _FORMATTER.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        return True


def install(redactor: Redactor, logger: logging.Logger | None = None) -> None:
    """Redact everything that the handlers of ``logger`` (the root by default) write.

    Handlers that are added later need the filter too, so call this after logging is set up.
    """
    for handler in (logger or logging.getLogger()).handlers:
        if not any(isinstance(existing, RedactFilter) for existing in handler.filters):
            handler.addFilter(RedactFilter(redactor))
