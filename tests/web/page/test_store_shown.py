"""What the page and the verdict show of a KV store below the engine's own cache."""

import html
import re
from dataclasses import replace

from publish_records import TURNS, engine_view, session
from samples_page import publish

from exporter.metrics.state.target import TargetState
from exporter.model.engine import EngineTotals
from exporter.model.session import Notice
from exporter.wording.verdict import verdict

STORED = [
    replace(one, external_cached_tokens=tokens)
    for one, tokens in zip(TURNS, (0, 256, 512), strict=True)
]


async def words(client) -> str:
    """The text of the page, without its tags."""
    text = html.unescape(re.sub(r"<[^>]*>", " ", await (await client.get("/")).text()))
    return " ".join(text.split())


async def test_the_page_shows_the_part_of_a_store_and_the_ratio_with_it(client, published):
    published.metrics.add(TargetState("local"))
    publish(published.metrics, engine_view())
    published.session_finished(session(*STORED))
    page = await words(client)
    assert "Cached From a KV store Ideal" in page
    assert "The same with hits in an external KV store, 1m 60.0 %" in page
    assert "768 of them from an external KV store" in page


async def test_without_a_store_there_is_no_column_and_no_second_ratio(client, published):
    published.metrics.add(TargetState("local"))
    totals = EngineTotals(queried_tokens=5000.0, hit_tokens=4000.0, external_hit_tokens=0.0)
    publish(published.metrics, engine_view(totals=totals))
    published.session_finished(session(*TURNS))
    page = await words(client)
    assert "Cached Ideal" in page
    assert "KV store" not in page


async def test_transfers_are_no_hits_in_a_store(client, published):
    published.metrics.add(TargetState("local"))
    publish(published.metrics, engine_view())
    published.session_finished(session(*TURNS, notices=frozenset({Notice.TRANSFER})))
    page = await words(client)
    assert "with hits in an external KV store" not in page
    assert "counts tokens as cached that it received from another engine" in page


def test_a_verdict_without_hits_of_a_store_does_not_name_one():
    nothing = [replace(one, external_cached_tokens=0) for one in TURNS]
    assert "KV store" not in verdict(session(*nothing))
