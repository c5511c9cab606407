"""Web configuration files, with the certificates that they name."""

from __future__ import annotations

import shutil
from pathlib import Path

CERTIFICATES = Path(__file__).parents[2] / "web" / "certificates"
PASSWORD = "correct horse"
# bcrypt hashes of PASSWORD, with low costs to keep the tests fast.
HASH = "$2b$04$ZALv2K4mS6uDYSlWxaGYFu5ZA2FI2TOK5tonl0tLFgxr1DCDe4m/G"
DEARER_HASH = "$2b$06$sC3kETVy.Vej4.uiXwitX.SBMv30rOhnqDAFmLjm5kLcsYcjC3e/K"
TLS = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n"
USERS = f"basic_auth_users:\n  alice: {HASH}\n"


def install(folder: Path, name: str) -> None:
    """Put the certificate of that name where TLS expects it, as a renewal would."""
    for ending in (".pem", ".key"):
        shutil.copy(CERTIFICATES / f"{name}{ending}", folder / f"server{ending}")


def write(folder: Path, text: str, *, certificate: str | None = "first") -> Path:
    """A web configuration in `folder`."""
    if certificate is not None:
        install(folder, certificate)
    file = folder / "web.yml"
    file.write_text(text, encoding="utf-8")
    return file
