"""Every kind of source has its settings, its row and its page."""

from __future__ import annotations

from doc_pages import ROOT

from exporter.config.schema.discovery import SOURCE_KINDS
from exporter.discovery.kinds import KINDS


def test_each_list_of_sources_in_the_settings_has_a_row_and_each_row_a_list():
    rows = {name: kind.settings for name, kind in KINDS.items()}
    assert rows == SOURCE_KINDS, (
        "a kind of source needs a field in DiscoverySettings (exporter/config/schema/discovery.py) "
        "and a row in KINDS (exporter/discovery/kinds.py)"
    )


def test_each_kind_is_on_the_page():
    page = (ROOT / "docs" / "discovery.md").read_text("utf-8")
    assert [name for name in KINDS if f"[[discovery.{name}]]" not in page] == []
