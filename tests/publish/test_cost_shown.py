"""What a person and a program read of the probe's pauses and of what prefill costs."""

from publish_records import TURNS, engine_view, measured, session

from exporter.model import PauseReason, RetentionReading
from exporter.publish.cost_state import Prices


async def test_the_page_says_what_holds_the_probe_back_and_what_was_measured(client, published):
    published.metrics.target_added("local")
    published.metrics.engine_scraped(engine_view())
    published.metrics.gate_looked("local", PauseReason.QUEUE)
    published.metrics.retention_read(RetentionReading("local", 60.0, 0.25))
    page = await (await client.get("/")).text()
    assert "requests wait in the engine&#39;s queue" in page
    assert "25% after 60 s" in page
    assert "per token" not in page
    for result in measured():
        published.session_finished(result)
    published.metrics.gate_looked("local", None)
    page = await (await client.get("/")).text()
    assert "200.0 ± 0.0 µs per token" in page
    assert "held back" not in page


async def test_the_api_says_the_same_and_null_where_nothing_is_known(client, published):
    published.session_finished(session(*TURNS))
    published.metrics.target_budget("local", 5000, Prices())
    published.metrics.gate_looked("local", PauseReason.BUDGET)
    (target,) = (await (await client.get("/api/v1/targets")).json())["targets"]
    assert target["cost"] == {
        "paused": "budget",
        "budget_tokens_per_hour": 5000,
        "prefill_seconds_per_token": None,
        "prefill_seconds_per_token_error": None,
        "prefill_seconds_saved": None,
        "retention_ratios": {},
    }
