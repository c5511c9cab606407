"""The pages of docs/ as a site."""

import json
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build(release_tools, folder, config=ROOT / "mkdocs.yml"):
    command = [release_tools / "mkdocs", "build", "--strict", "-f", config, "-d", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def site(release_tools, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    run = build(release_tools, folder)
    assert run.returncode == 0, run.stderr
    return folder


class _Loaded(HTMLParser):
    """The addresses that a browser loads with a page, which links are not."""

    def __init__(self, text):
        super().__init__()
        self.addresses = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        if tag != "a" and named.get("rel") != "canonical":
            self.addresses += [named[key] for key in ("src", "href") if named.get(key)]


def test_every_page_is_there_and_no_link_is_dead(site):
    for page in (path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")):
        made = page.with_name("index.md") if page.name == "README.md" else page
        assert (site / made.with_suffix(".html")).exists(), page


def test_every_page_but_a_runbook_is_in_the_navigation():
    named = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2]
    missing = [each.name for each in (ROOT / "docs").glob("*.md") if f" {each.name}\n" not in named]
    assert not missing


def test_a_list_with_blocks_in_its_items_is_one_list_on_the_site(site):
    page = (site / "systemd.html").read_text("utf-8")
    install = page.partition('id="install"')[2].partition('id="upgrade"')[0]
    assert install.count("<ol>") == 1
    (items,) = re.findall("<ol>.*</ol>", install, re.DOTALL)
    assert items.count("<li>") == 4
    assert items.count('class="highlight"') == 3
    wheel = (site / "installation.html").read_text("utf-8").partition('id="a-wheel"')[2]
    (upgrade,) = re.findall(
        "<li>\\s*<p><strong>Upgrade.*?</li>", wheel.partition("<h3")[0], re.DOTALL
    )
    assert "<pre>" in upgrade


def test_words_of_the_pages_are_found_by_the_search(site):
    index = json.loads((site / "search/search_index.json").read_text("utf-8"))
    text = " ".join(each["title"] + each["text"] for each in index["docs"])
    assert "vllm_probe_cache_wedged" in text
    assert "A good guest" in text


def test_a_browser_loads_the_pages_from_no_other_host(site):
    for page in site.rglob("*.html"):
        addresses = _Loaded(page.read_text("utf-8")).addresses
        assert not [one for one in addresses if re.match("(https?:)?//", one)], page.name


def test_a_dead_link_fails_the_build(release_tools, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/README.md").write_text("[gone](gone.md)", "utf-8")
    config = tmp_path / "mkdocs.yml"
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    text = text.partition("\nnav:")[0].replace("[release/", f"[{ROOT}/release/")
    config.write_text(text, "utf-8")
    run = build(release_tools, tmp_path / "site", config)
    assert run.returncode != 0
    assert "gone.md" in run.stderr
