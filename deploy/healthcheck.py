# ruff: noqa: INP001 - a script, no module of a package
"""Whether the program of this container answers: the image's HEALTHCHECK, exit code 0 or 1.

The same image runs the daemon and the simulator; the container's command line says which.
"""

import os
import sys
import urllib.request
from pathlib import Path


def page(command: list[str]) -> str:
    """The page that answers 200 while the program with this command line is well."""
    if "simulate" in command:
        port = command[command.index("--port") + 1] if "--port" in command else "8000"
        return f"http://127.0.0.1:{port}/health"
    port = os.environ.get("VLLM_EXPORTER_LISTEN", "").rpartition(":")[2] or "9477"
    return f"http://127.0.0.1:{port}/-/healthy"


def main() -> int:
    """Ask once. With an init process in front its command line ends in the program's own."""
    command = Path("/proc/1/cmdline").read_text(encoding="utf-8").split("\0")
    try:
        with urllib.request.urlopen(page(command), timeout=4):  # noqa: S310 - a literal http URL
            return 0
    except OSError as error:
        print(error, file=sys.stderr)  # noqa: T201 - docker inspect shows it
        return 1


if __name__ == "__main__":
    sys.exit(main())
