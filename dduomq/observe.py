"""Logs: key-value lines for people on a terminal, JSON for machines; one event for each thing that matters.

Always true: nothing global is configured when dduomq is embedded; `configure` is called by `main` alone.
"""

import logging
import sys
from typing import TextIO

import structlog

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def make_log(level: str = "info", form: str = "auto", stream: TextIO | None = None) -> structlog.stdlib.BoundLogger:
    """A logger that writes to `stream` (stderr); `form` is auto, text or json."""
    out = stream or sys.stderr
    as_text = form == "text" or (form == "auto" and out.isatty())
    renderer: structlog.typing.Processor
    if as_text:
        renderer = structlog.dev.ConsoleRenderer(colors=out.isatty())
        processors = [_time("%H:%M:%S")]
    else:
        renderer = structlog.processors.JSONRenderer()
        processors = [_time("iso"), structlog.processors.dict_tracebacks]
    log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(out),
        processors=[structlog.processors.add_log_level, *processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
    )
    return log


def _time(fmt: str) -> structlog.typing.Processor:
    return structlog.processors.TimeStamper(fmt=fmt, utc=fmt == "iso")


def silent_log() -> structlog.stdlib.BoundLogger:
    """A logger that drops everything: the default of an embedded node."""
    log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        structlog.ReturnLogger(),
        processors=[_drop],
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
    )
    return log


def _drop(_logger: object, _name: str, _event: structlog.typing.EventDict) -> str:
    raise structlog.DropEvent
