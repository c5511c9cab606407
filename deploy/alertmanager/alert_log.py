# ruff: noqa: INP001, T201 - a script, and printing is its purpose
"""An example receiver for Alertmanager: writes one line of JSON per alert to its output.

POST /alerts takes Alertmanager's webhook ("webhook_config" in its documentation). GET /healthy
answers 200. With the argument `check` the script asks a running receiver for /healthy.
"""

from __future__ import annotations

import json
import signal
import sys
import urllib.request
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PORT = 9478
LONGEST_BODY = 1 << 20  # bytes; a notification has a few kilobytes


def line_of(alert: dict[str, Any]) -> str:
    """The most important fields of an alert, as one line of JSON."""
    labels, notes = alert.get("labels", {}), alert.get("annotations", {})
    return json.dumps(
        {
            "status": alert.get("status"),
            "alert": labels.get("alertname"),
            "severity": labels.get("severity"),
            "target": labels.get("target"),
            "summary": notes.get("summary"),
            "action": notes.get("action"),
            "runbook": notes.get("runbook_url"),
            "since": alert.get("startsAt"),
        }
    )


class Receiver(BaseHTTPRequestHandler):
    """Answers Alertmanager's webhook and the health check."""

    def do_GET(self) -> None:
        self._answer(HTTPStatus.OK if self.path == "/healthy" else HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.path != "/alerts" or not 0 < length <= LONGEST_BODY:
            self._answer(HTTPStatus.BAD_REQUEST)
            return
        try:
            lines = [line_of(alert) for alert in json.loads(self.rfile.read(length))["alerts"]]
        except (ValueError, KeyError, TypeError, AttributeError):
            self._answer(HTTPStatus.BAD_REQUEST)
            return
        print(*lines, sep="\n", flush=True)
        self._answer(HTTPStatus.OK)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Do not log requests: the log is for alerts."""

    def _answer(self, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


def main() -> None:
    if sys.argv[1:] == ["check"]:
        urllib.request.urlopen(f"http://127.0.0.1:{PORT}/healthy", timeout=4).close()
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ThreadingHTTPServer(("", PORT), Receiver).serve_forever()


if __name__ == "__main__":
    main()
