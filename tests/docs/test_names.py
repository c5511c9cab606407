"""Links lead somewhere, and names in the docs exist."""

from __future__ import annotations

import re

import pytest
from doc_pages import PAGES, ROOT, anchors, prose

from exporter.config.schema import keys
from exporter.config.schema.settings import Settings
from exporter.metrics.families.tables import (
    EXPORTER_FAMILIES,
    LOOP_FAMILIES,
    ON_DEMAND_FAMILIES,
    TARGET_FAMILIES,
)

READ = [page for page in PAGES if page.name != "CHANGELOG.md"]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_relative_links_and_anchors_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


@pytest.mark.parametrize("page", READ, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_of_the_repository_that_are_named_exist(page):
    for path in re.findall(
        r"`((?:exporter|tests|docs|bench|fuzz|soak|release|real_engines)/[\w./-]*)", prose(page)
    ):
        made = path.startswith("fuzz/findings/")
        assert made or (ROOT / path).exists(), f"{page.name} names {path}"


def test_every_page_is_reached_from_the_readme():
    seen, queue = set(), [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        if page in seen or page.suffix != ".md" or not page.is_file():
            continue
        seen.add(page)
        links = re.findall(r"\]\(([^)\s#]+)", prose(page))
        queue += [(page.parent / link).resolve() for link in links if ":" not in link]
    assert set(PAGES) <= seen


def test_pictures_are_small_have_a_description_and_are_used():
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    for picture in (ROOT / "docs/images").iterdir():
        assert picture.stat().st_size < 100_000
        assert re.search(rf"!\[[^\]]{{20,}}\]\(images/{picture.name}\)", text)


FAMILIES = {
    family.name: family.kind
    for family in (*TARGET_FAMILIES, *ON_DEMAND_FAMILIES, *EXPORTER_FAMILIES, *LOOP_FAMILIES)
}
SAMPLES = {
    *FAMILIES,
    *(
        f"{name}_{part}"
        for name, kind in FAMILIES.items()
        if kind == "histogram"
        for part in ("bucket", "count", "sum")
    ),
}
RULES = "\n".join(file.read_text("utf-8") for file in (ROOT / "deploy/prometheus/rules").iterdir())


@each_page
def test_metrics_that_are_named_exist(page):
    text = page.read_text("utf-8")
    for name in re.findall(
        r"(?<![\w:])vllm_(?:probe|engine|container|exporter)_\w*(?![\w:])", text
    ):
        known = any(sample.startswith(name) for sample in SAMPLES) if name.endswith("_") else False
        assert known or name in SAMPLES, name


@each_page
def test_recorded_series_that_are_named_exist(page):
    for name in re.findall(r"\b[a-z]+:vllm_\w+:\w+", page.read_text("utf-8")):
        assert f"record: {name}\n" in RULES, name


@each_page
def test_variables_of_the_exporter_that_are_named_are_settings(page):
    for name in re.findall(r"VLLM_EXPORTER_[A-Z0-9_]*[A-Z0-9]", page.read_text("utf-8")):
        parts = name.removeprefix(keys.PREFIX).split(keys.DELIMITER)
        assert name in {"VLLM_EXPORTER_CONFIG", "VLLM_EXPORTER_SECRETS_DIR"} or keys.resolve(
            parts
        ), name


@each_page
def test_settings_that_are_named_with_their_section_exist(page):
    sections = "|".join(
        name
        for name, field in Settings.model_fields.items()
        if keys.is_section(keys.bare(field.annotation))
    )
    events = r"^\| log event \|.*$|\bevent `[^`]+`"
    text = re.sub(events, "", page.read_text("utf-8"), flags=re.MULTILINE)
    for name in re.findall(rf"`((?:{sections})\.[a-z_.]+)(?: = [^`]*)?`", text):
        assert keys.resolve(name.split(".")), name


CODE = "\n".join(file.read_text("utf-8") for file in (ROOT / "exporter").rglob("*.py"))


@each_page
def test_log_events_that_are_named_exist(page):
    for name in re.findall(r"\bevent `([^`]+)`", page.read_text("utf-8")):
        assert f'"{name}"' in CODE, name


CHECKS = {
    "an event": (test_log_events_that_are_named_exist, "the event `no.such_event`"),
    "a metric": (test_metrics_that_are_named_exist, "`vllm_probe_no_such_thing`"),
    "a variable": (
        test_variables_of_the_exporter_that_are_named_are_settings,
        "VLLM_EXPORTER_PROBE__NO_SUCH",
    ),
    "a setting": (test_settings_that_are_named_with_their_section_exist, "`probe.no_such`"),
    "a series": (test_recorded_series_that_are_named_exist, "target:vllm_probe_no:such"),
    "a link": (test_relative_links_and_anchors_lead_somewhere, "[x](nowhere.md)"),
    "an anchor": (test_relative_links_and_anchors_lead_somewhere, "# A\n[x](#b)"),
}


@pytest.mark.parametrize("what", CHECKS)
def test_a_name_that_does_not_exist_is_found(tmp_path, what):
    check, text = CHECKS[what]
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(AssertionError):
        check(page)
