"""What changed between two texts is named: a time, a date, an id, a number, or something else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.analysis.requests.texts import text_change
from exporter.model.explained import ChangeReason as Reason

PAIRS = [
    (Reason.TIME, "It is 10:00:01 now.", "It is 10:00:07 now."),
    (Reason.TIME, "at 9:59 PM\n", "at 10:01 PM\n"),
    (Reason.TIME, "<now>2026-11-28T10:00:01Z</now>", "<now>2026-11-28T10:00:02Z</now>"),
    (Reason.TIME, "time: 1764500000, go", "time: 1764500093, go"),
    (Reason.TIME, "t=1764500000123;", "t=1764500100123;"),
    (Reason.TIME, "2026-11-28 23:59 end", "2026-11-29 00:01 end"),
    (Reason.DATE, "Today's date: 2026-11-28.", "Today's date: 2026-11-29."),
    (Reason.DATE, "It is Nov 28, 2026. Work.", "It is Nov 29, 2026. Work."),
    (Reason.DATE, "on 28 November 2026 we", "on 1 December 2026 we"),
    (Reason.DATE, "on Friday we", "on Saturday we"),
    (Reason.DATE, "28.11.2026: work", "29.11.2026: work"),
    (
        Reason.ID,
        "run 1b4e28ba-2fa1-11d2-883f-0016d3cca427 ok",
        "run 6fa459ea-ee8a-3ca4-894e-db77e160355e ok",
    ),
    (Reason.ID, "session sess_8fA2kq7 begins", "session sess_9bR1mm4 begins"),
    (Reason.ID, "/home/agent-a8f3c1/work", "/home/agent-77bd02/work"),
    (Reason.COUNTER, "You have 19 steps left.", "You have 18 steps left."),
    (Reason.COUNTER, "tokens used: 9,812 so far", "tokens used: 10,044 so far"),
    (Reason.COUNTER, "step 9 of 20", "step 10 of 20"),
    (
        Reason.BILLING_LINE,
        "x-anthropic-billing-header: cc_version=2; cch=3d98e;\nYou",
        "x-anthropic-billing-header: cc_version=2; cch=1f88a;\nYou",
    ),
    (Reason.KEYS_REORDERED, '{"a": 1, "b": [2]}', '{"b": [2], "a": 1}'),
    (Reason.KEYS_REORDERED, '{"x": {"a": 1, "b": 2}}', '{"x": {"b": 2, "a": 1}}'),
    (Reason.WHITESPACE, '{"a":1}', '{"a": 1}'),
    (Reason.WHITESPACE, "one two", "one  two"),
    (Reason.WHITESPACE, "end", "end\n"),
    (Reason.REASONING_STRIPPED, "<think>hm</think>\n\nyes", "yes"),
    (Reason.REASONING_ECHOED, "yes", "<think>hm</think>\n\nyes"),
    (Reason.REASONING_STRIPPED, "hm, so\n</think>\n\nyes", "yes"),
    (
        Reason.TIME,
        "You help with billing. It is 10:00:01.",
        "You help with billing. It is 10:00:02.",
    ),
    (Reason.BILLING_LINE, "billing-session: a81;\nYou", "billing-session: b92;\nYou"),
    (Reason.WHITESPACE, '{"a": "\\u00e9"}', '{"a": "é"}'),
    (Reason.TEXT_EDITED, '{"a": true}', '{"a": 1}'),
    (Reason.TEXT_EDITED, "the port is 8080", "the port is 8080\n- tea, no milk"),
    (Reason.TEXT_EDITED, "use the tool", "use a tool"),
    (Reason.TEXT_EDITED, "one", "one and more"),
    (Reason.TEXT_EDITED, "at 10:00:01 we go", "at 10:00:07 they stay"),
]


@pytest.mark.parametrize(("reason", "earlier", "later"), PAIRS)
def test_the_reason_of_a_change(reason, earlier, later):
    found = text_change(earlier, later)
    assert found.reason is reason
    assert earlier[: found.index] == later[: found.index]
    assert earlier[found.index : found.index + 1] != later[found.index : found.index + 1]


WHOLE = {Reason.KEYS_REORDERED, Reason.REASONING_STRIPPED, Reason.REASONING_ECHOED}
AT_AN_END = ("billing-session", '{"a": ', "the port is")
WITHIN = [
    (reason, *pair)
    for reason, *pair in PAIRS
    if reason not in WHOLE and not pair[0].startswith(AT_AN_END)
]


@pytest.mark.parametrize(("reason", "earlier", "later"), WITHIN)
def test_a_change_in_the_middle_of_a_long_text_has_the_same_reason(reason, earlier, later):
    before, after = "word " * 400, "\n" + "more " * 400
    assert text_change(before + earlier + after, before + later + after).reason is reason


@given(st.text(), st.text())
def test_the_first_difference_is_where_two_texts_part(one, other):
    found = text_change(one, other)
    if one == other:
        assert found is None
    else:
        assert one[: found.index] == other[: found.index]
        assert one[found.index : found.index + 1] != other[found.index : found.index + 1]
