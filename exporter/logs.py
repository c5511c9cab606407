"""Logging: structlog over the standard library, as JSON or for a console.

Secrets and prompts never reach the log: settings hold `SecretStr`, no call logs a prompt, and
tracebacks show no local variables.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Literal

import structlog

LogFormat = Literal["json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]

# structlog's defaults, with rich or without, show the local variables of each frame.
_DICT_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure(log_format: LogFormat, level: LogLevel) -> None:
    """Send all log lines, also those of libraries, to standard error in one format.

    A second call also changes existing loggers. So the level is the standard library's, because
    structlog would fix it in each logger.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(log_format),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # These libraries log too much below warnings.
    for name in ("aiohttp.access", "docker", "urllib3", "asyncio", "matplotlib", "PIL"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _renderers(log_format: LogFormat) -> list[structlog.typing.Processor]:
    if log_format == "json":
        return [_DICT_TRACEBACKS, structlog.processors.JSONRenderer()]
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty() and not os.environ.get("NO_COLOR"),
            exception_formatter=structlog.dev.plain_traceback,
        )
    ]


class Outage:
    """Logs `failed` once per reason while something fails, and `recovered` once when it works.

    Times are monotonic seconds.
    """

    def __init__(
        self, log: structlog.typing.FilteringBoundLogger, *, failed: str, recovered: str
    ) -> None:
        self._log = log
        self._failed = failed
        self._recovered = recovered
        self._since: float | None = None
        self._reasons: set[str] = set()

    def failed(self, at: float, reason: str, detail: str, **more: object) -> None:
        if self._since is None:
            self._since = at
        if reason not in self._reasons:
            self._reasons.add(reason)
            self._log.warning(self._failed, reason=str(reason), detail=detail, **more)

    def ended(self, at: float) -> None:
        if self._since is not None:
            self._log.info(self._recovered, after_seconds=round(at - self._since, 3))
        self._since = None
        self._reasons.clear()
