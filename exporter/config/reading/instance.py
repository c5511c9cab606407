"""Which exporter this is: two on one Docker Engine must not fight over a container.

Without a setting it follows from the machine and from where the configuration lies: the same after
each restart, another one for another checkout, another systemd unit or another machine. In a
container neither tells two exporters apart; compose.yaml sets it to the project's name.
"""

import hashlib
from pathlib import Path

MACHINE_ID = Path("/etc/machine-id")


def default_instance(config_file: Path | None, machine_id: Path = MACHINE_ID) -> str:
    """A short word for this exporter."""
    try:
        machine = machine_id.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        machine = ""
    lies_at = "" if config_file is None else str(config_file.expanduser().resolve())
    return hashlib.sha256(f"{machine}\n{lies_at}".encode()).hexdigest()[:12]
