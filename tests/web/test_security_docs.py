"""docs/security.md gives the limits in force."""

from __future__ import annotations

from pathlib import Path

from exporter.web.access import authentication, web_access
from exporter.web.connections import Limits

DOCS = Path(__file__).parents[2] / "docs"


def test_the_limits_in_the_docs_are_those_in_force():
    page = (DOCS / "security.md").read_text(encoding="utf-8")
    limits = Limits()
    for words in (
        f"{limits.request_seconds:g} s for a request",
        f"{limits.request_bytes >> 10} KiB with at most 64 headers of 8190 bytes",
        f"{limits.send_seconds:g} s to read an answer",
        f"{limits.idle_seconds:g} s idle",
        f"{limits.handshake_seconds:g} s for a TLS handshake",
        f"{limits.connections} connections",
        f"{authentication._WAITING_OF_A_CLIENT} at a time of one address and {authentication._WAITING} in all",
    ):
        assert words in page


def test_the_interval_in_the_docs_is_the_one_in_force():
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert f"looked at every {web_access.INTERVAL_SECONDS:g} seconds" in page
