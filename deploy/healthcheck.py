# ruff: noqa: INP001 - a script, not a module of a package
"""The image's HEALTHCHECK: exit code 0 if the program of this container answers, else 1.

The same image runs the daemon and the simulator; the container's command line says which. A daemon
that asks for a password or a client certificate does answer, so it is healthy.
"""

import contextlib
import os
import socket
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

TIMEOUT_SECONDS = 4
WANTS_PASSWORD = 401
TLS_HANDSHAKE = b"\x16"
# The certificate has the name that clients use. This script asks loopback in the same container.
ANY_NAME = ssl._create_unverified_context()  # noqa: S323, SLF001 - see above


def page(command: list[str]) -> str:
    """The address that answers 200 while the program with this command line is healthy."""
    if "simulate" in command:
        port = command[command.index("--port") + 1] if "--port" in command else "8000"
        return f"127.0.0.1:{port}/health"
    port = os.environ.get("VLLM_EXPORTER_LISTEN", "").rpartition(":")[2] or "9477"
    return f"127.0.0.1:{port}/-/healthy"


def answers(where: str) -> bool:
    """Ask with http, then with https if that fails. OSError if nothing answers."""
    try:
        return asked(f"http://{where}")
    except (ConnectionError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ConnectionRefusedError | TimeoutError):
            raise
    try:
        return asked(f"https://{where}")
    except (ConnectionError, urllib.error.URLError, ssl.SSLError) as error:
        # A server that requires a client certificate ends the handshake, possibly without a reason.
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError) or not greets(where):
            raise
        return True


def asked(url: str) -> bool:
    """Whether the page answers 200, or asks for a password."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS, context=ANY_NAME):  # noqa: S310 - ours
            return True
    except urllib.error.HTTPError as error:
        return error.code == WANTS_PASSWORD


def greets(where: str) -> bool:
    """Whether the server answers the first message of a TLS handshake with its own."""
    host, _, port = where.partition("/")[0].partition(":")
    ours = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ANY_NAME.wrap_bio(ssl.MemoryBIO(), ours).do_handshake()
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS) as connection:
        connection.sendall(ours.read())
        return connection.recv(1) == TLS_HANDSHAKE


def main() -> int:
    """Ask once. With an init process as PID 1, its command line ends with the program's."""
    command = Path("/proc/1/cmdline").read_text(encoding="utf-8").split("\0")
    try:
        return 0 if answers(page(command)) else 1
    except OSError as error:
        print(error, file=sys.stderr)  # noqa: T201 - docker inspect shows it
        return 1


if __name__ == "__main__":
    sys.exit(main())
