"""The status page with more targets than fit on one page."""

from __future__ import annotations

import re
from itertools import chain

import pytest
from publish_records import TURNS, failed_session, session

from exporter.web.page.views.targets import OVERVIEW_ROWS

FLEET = 2 * OVERVIEW_ROWS + 50


@pytest.fixture
def fleet(published):
    """250 targets, of which the last two fail."""
    for number in range(FLEET):
        name = f"t{number}"
        unwell = number >= FLEET - 2
        made = failed_session(target=name) if unwell else session(*TURNS, target=name)
        published.session_finished(made)


async def show(client, query=""):
    answer = await client.get(f"/{query}")
    assert answer.status == 200
    return await answer.text()


def rows(html):
    return re.findall(r'<tr><th scope="row"><a href="[^"]*">(t[0-9]+)</a>', html)


def to_others(html):
    found = re.search(r'<nav class="pages".*?</nav>', html, re.DOTALL)
    return re.findall(r'<a href="([^"]*)">([a-z]*)</a>', found[0]) if found else []


@pytest.mark.usefixtures("fleet")
async def test_each_target_is_on_one_page_and_those_with_problems_on_the_first(client):
    pages = [await show(client, query) for query in ("", "?page=2", "?page=3")]
    found = [rows(html) for html in pages]
    assert [len(each) for each in found] == [OVERVIEW_ROWS, OVERVIEW_ROWS, 50]
    assert found[0][:2] == [f"t{FLEET - 2}", f"t{FLEET - 1}"]
    assert sorted(chain.from_iterable(found)) == sorted(f"t{number}" for number in range(FLEET))
    assert "Targets 201 to 250 of 250, with their last session; problems first" in pages[2]
    for html in pages:
        assert "250 targets: 2 failing, 248 up." in html
        assert len(html) < 100_000


@pytest.mark.usefixtures("fleet")
async def test_the_pages_link_to_each_other(client):
    assert to_others(await show(client)) == [("?page=2", "next"), ("?page=3", "last")]
    assert to_others(await show(client, "?page=2")) == [
        ("?page=1", "first"),
        ("?page=1", "previous"),
        ("?page=3", "next"),
        ("?page=3", "last"),
    ]
    assert await show(client, "?page=1") == await show(client)


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize("number", ["0", "4", "-1", "", "x", "1&page=2"])
async def test_a_page_that_does_not_exist_is_a_404(client, number):
    assert (await client.get(f"/?page={number}")).status == 404


@pytest.mark.usefixtures("fleet")
async def test_one_target_of_a_fleet_has_its_page_without_the_others(client):
    html = await show(client, "?target=t249")
    assert rows(html) == []
    assert to_others(html) == []
    assert "all 250 targets" in html


async def test_a_small_fleet_is_on_one_page_in_its_order(client, published):
    names = [f"t{number}" for number in range(OVERVIEW_ROWS)]
    for name in names:
        made = failed_session(target=name) if name == "t50" else session(*TURNS, target=name)
        published.session_finished(made)
    html = await show(client)
    assert rows(html) == names
    assert to_others(html) == []
    assert "All targets, with their last session" in html
