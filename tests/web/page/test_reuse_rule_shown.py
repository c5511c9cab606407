"""What the page shows of the engine's reuse rule, apart from what was lost."""

import html
import re

import pytest
from publish_records import EAGLE, EAGLE_TURNS, TURNS, engine_view, session, turn
from samples_page import publish

from exporter.metrics.state.target import TargetState
from exporter.model.reuse import RuleCause
from exporter.model.session import LossCause
from exporter.web.page.views.sessions import session_rows, trend
from exporter.wording.reuse_rules import RULE_ADVICE


async def words(client) -> str:
    """The text of the page, without its tags."""
    text = html.unescape(re.sub(r"<[^>]*>", " ", await (await client.get("/")).text()))
    return " ".join(text.split())


async def test_the_page_says_what_the_engines_rule_gives_up_apart_from_losses(client, published):
    published.metrics.add(TargetState("local"))
    publish(published.metrics, engine_view())
    lost = turn(4, 1700, 1024, 1504, gives_up=32, cause=LossCause.EVICTED)
    published.session_finished(session(*EAGLE_TURNS, lost, reuse_rule=EAGLE))
    page = await words(client)
    assert "EAGLE or MTP gives up 32 tokens a turn, 1.8 % of this session's prompt tokens." in page
    assert "Cached Ideal Attainable Hit ratio" in page
    assert "3 1,500 1,248 1,280 1,248 83.2 % 100 % 32 125 ms 1.50 s" in page
    assert "evicted 448 448 12.2 % If evicted:" in page
    assert "Tokens given up by the engine's rule: no loss and no fault" in page
    assert "speculative decoding 96 96 2.5 % Speculative decoding:" in page
    assert f"Speculative decoding: {RULE_ADVICE[RuleCause.SPECULATIVE_DECODING]}" in page
    assert "Reuse rule hits are multiples of 32 tokens; the last 32 tokens of each hit" in page
    assert "Efficiency: cached / attainable." in page


async def test_a_session_without_a_loss_by_the_rule_did_all_that_the_rule_allows(client, published):
    published.metrics.add(TargetState("local"))
    published.session_finished(session(*EAGLE_TURNS, reuse_rule=EAGLE))
    page = await words(client)
    assert "all that the engine's reuse rule allows." in page
    assert "Tokens lost" not in page


@pytest.mark.parametrize(("turns", "shown"), [(EAGLE_TURNS, True), (TURNS, False)])
def test_the_trend_has_what_was_attainable_where_it_is_not_the_ideal(turns, shown):
    chart = trend(session_rows([session(*turns)] * 2))
    assert ("attainable" in {key.text for key in chart.keys}) is shown


async def test_an_engine_that_gives_up_nothing_has_no_column_and_no_table_of_its_rule(
    client, published
):
    published.metrics.add(TargetState("local"))
    published.session_finished(session(*TURNS))
    page = await words(client)
    assert "Ideal Hit ratio" in page
    assert "Part of the rule" not in page
    assert "Reuse rule" not in page
