"""The log of the study: one line on the standard error for each event, without anybody's data.

What an exception says may hold what somebody has sent. Only its type and place are logged, and of a
database's complaint the first line, which names tables and never values.
"""

import logging
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger("study")
REPEAT_SECONDS = 60  # a line that comes again within this time is counted, not written


def line(error) -> str:
    """What went wrong in one line, without values."""
    cause = getattr(error, "orig", None) or error  # the driver's words, without the statement
    return (str(cause).strip() or type(cause).__name__).splitlines()[0].strip()


def _place(error) -> str:
    """The type of an exception, and where it was raised."""
    frame = error.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    where = f" in {Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame else ""
    return type(error).__name__ + where


class _Lines(logging.Handler):
    """Writes each record as a line, and remembers the last error."""

    def __init__(self):
        super().__init__()
        self.last_error = None
        self._written = {}  # text -> (when it was written, how often it has come since)

    def emit(self, record):
        text = record.getMessage().splitlines()[0]
        if record.exc_info and record.exc_info[1]:
            text += f": {_place(record.exc_info[1])}"
        moment = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        if record.levelno >= logging.ERROR:
            self.last_error = f"{moment} {text}"
        when, count = self._written.get(text, (None, 0))
        if when is not None and time.monotonic() - when < REPEAT_SECONDS:
            self._written[text] = (when, count + 1)
            return
        self._written = {text: (time.monotonic(), 0)}
        again = f" ({count} times more in between)" if count else ""
        with suppress(OSError):  # the log's own disk is full: the study goes on
            print(f"{moment} study: {text}{again}", file=sys.stderr, flush=True)


_lines = _Lines()


def set_up():
    """Sends the study's lines, and the complaints of what it runs on, to the standard error."""
    global _lines
    _lines = _Lines()
    for name, level in (("study", "INFO"), ("uvicorn", "WARNING"), ("asyncio", "WARNING")):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.handlers, logger.propagate = [_lines], False


def last_error() -> str | None:
    """When and what, or None since the start of this process."""
    return _lines.last_error
