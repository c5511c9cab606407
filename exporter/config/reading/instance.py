"""The default name of this exporter. Two exporters on one Docker Engine need different names.

It is a digest of the machine's ID and the path of the configuration file. So it survives a restart,
and differs for another checkout, systemd unit or machine. Inside a container both are equal for all
exporters; compose.yaml sets the project's name instead.
"""

import hashlib
from pathlib import Path

MACHINE_ID = Path("/etc/machine-id")


def default_instance(config_file: Path | None, machine_id: Path = MACHINE_ID) -> str:
    """Twelve hexadecimal digits."""
    try:
        machine = machine_id.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        machine = ""
    lies_at = "" if config_file is None else str(config_file.expanduser().resolve())
    return hashlib.sha256(f"{machine}\n{lies_at}".encode()).hexdigest()[:12]
