# ruff: noqa: INP001 - a script, no module of a package
"""Whether the program of this container answers: the image's HEALTHCHECK, exit code 0 or 1.

The same image runs the daemon and the simulator; the container's command line says which. A daemon
that wants a password, or a certificate of its client, answers by saying so: that is well enough.
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
# The certificate is for the name that clients use, and this is the same container.
ANY_NAME = ssl._create_unverified_context()  # noqa: S323, SLF001 - see above


def page(command: list[str]) -> str:
    """The page that answers 200 while the program with this command line is well."""
    if "simulate" in command:
        port = command[command.index("--port") + 1] if "--port" in command else "8000"
        return f"127.0.0.1:{port}/health"
    port = os.environ.get("VLLM_EXPORTER_LISTEN", "").rpartition(":")[2] or "9477"
    return f"127.0.0.1:{port}/-/healthy"


def answers(where: str) -> bool:
    """Ask in the clear, and where that is not understood with TLS. OSError where nobody answers."""
    try:
        return asked(f"http://{where}")
    except (ConnectionError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ConnectionRefusedError | TimeoutError):
            raise
    try:
        return asked(f"https://{where}")
    except (ConnectionError, urllib.error.URLError, ssl.SSLError) as error:
        # A server that wants a certificate of its client ends the handshake, and may not say why.
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError) or not greets(where):
            raise
        return True


def asked(url: str) -> bool:
    """Whether the page says that all is well, or who may read it."""
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
    """Ask once. With an init process in front its command line ends in the program's own."""
    command = Path("/proc/1/cmdline").read_text(encoding="utf-8").split("\0")
    try:
        return 0 if answers(page(command)) else 1
    except OSError as error:
        print(error, file=sys.stderr)  # noqa: T201 - docker inspect shows it
        return 1


if __name__ == "__main__":
    sys.exit(main())
