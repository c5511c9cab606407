"""The verdict at the end of a session."""

from __future__ import annotations

from dataclasses import replace

import pytest
from publish_records import BREAK, TURNS, UNSTABLE, failed_session, session, turn

from exporter.model.failure import FailureReason
from exporter.model.session import BreakReason, Control, ControlOutcome, Loss, LossCause, Notice
from exporter.wording.notices import ADVICE, BREAK_ADVICE, LOSS_ADVICE
from exporter.wording.verdict import failure_in_words, loss_lines, notes, verdict

SOUND = TURNS[:2]


def test_the_verdict_on_a_healthy_session_says_what_was_saved_and_to_change_nothing():
    assert verdict(session(*SOUND)) == (
        "The cache served 992 of 2,250 prompt tokens (44.1 %), all that it could have. "
        "Nothing to change."
    )


def test_a_loss_has_its_turn_its_cause_and_advice():
    evicted = turn(3, 1500, 1024, 1280, cause=LossCause.EVICTED)
    said = verdict(session(*SOUND, evicted))
    assert "and lost 256 that it could have served: evicted in turn 3" in said
    assert said.endswith(LOSS_ADVICE[LossCause.EVICTED][1:])


@pytest.mark.parametrize("cause", LossCause)
def test_the_largest_of_several_causes_gives_the_advice(cause):
    other = LossCause.RESET if cause is not LossCause.RESET else LossCause.EVICTED
    turns = (
        turn(2, 1250, 900, 1000, cause=other),
        turn(3, 1500, 0, 1280, cause=cause),
        turn(4, 1500, 0, 1280, cause=cause),
    )
    said = verdict(session(TURNS[0], *turns))
    assert f"2,560 {cause.replace('_', ' ')} in turns 3 and 4, 100 " in said
    assert said.endswith(LOSS_ADVICE[cause][1:])


def test_consecutive_turns_are_shown_as_a_range():
    lost = [turn(n, 1500, 0, 1280, cause=LossCause.WEDGED) for n in (2, 3, 4)]
    assert "wedged in turns 2 to 4" in verdict(session(TURNS[0], *lost))
    assert "wedged in turns 2, 4 and 5" in verdict(
        session(TURNS[0], lost[0], turn(3, 1500, 1280, 1280), replace(lost[2], index=4),
                replace(lost[1], index=5))
    )  # fmt: skip


def test_an_unknown_number_is_called_unknown_with_the_flag_that_fixes_it():
    notices = frozenset({Notice.USAGE_DETAILS_MISSING})
    said = verdict(session(turn(1, 1000, None, 0), turn(2, 1250, None, 992), notices=notices))
    assert said.startswith("The number of prompt tokens that the cache served is unknown")
    assert "--enable-prompt-tokens-details" in said
    assert "0 %" not in said


def test_with_an_unknown_ideal_the_verdict_does_not_say_that_all_was_served():
    notices = frozenset({Notice.TOKEN_IDS_MISSING})
    said = verdict(session(TURNS[0], turn(2, 1250, 992, None), notices=notices))
    assert "how many it could have served is unknown" in said
    assert "return_token_ids" in said
    assert "all that" not in said


def test_a_number_from_counters_comes_with_the_flag_that_replaces_them():
    said = verdict(session(*SOUND, notices=frozenset({Notice.CACHED_FROM_COUNTERS})))
    assert "all that it could have" in said
    assert "The server does not report cached tokens" in said
    assert "--enable-prompt-tokens-details" in said


def test_one_turn_or_an_unknown_one_shows_nothing():
    assert verdict(session(TURNS[0])) == "The cache served 0 of 1,000 prompt tokens (0 %)."
    assert "Nothing to change" not in verdict(session(TURNS[0], turn(2, 1250, None, None)))


def test_the_advice_is_about_an_unstable_prompt_even_if_nothing_was_lost():
    result = session(*SOUND, prefix=UNSTABLE, notices=frozenset({Notice.PREFIX_UNSTABLE}))
    assert "moved the system prompt into a later message" in verdict(result)
    assert "--chat-template" in verdict(result)
    assert any("careful engineer" in note for note in notes(result))


def with_controls(*saved: float, cached: int = 992) -> tuple:
    """A cold first turn, then for each difference a turn of 100 ms with a control that took longer."""
    warm = [turn(n, 1250, cached, 992, ttft=0.1) for n, _ in enumerate(saved, start=2)]
    controls = [Control(ControlOutcome.COLD, True, 1250, 32, 0.1 + each) for each in saved]
    pairs = zip(warm, controls, strict=True)
    return (SOUND[0], *(replace(each, control=control) for each, control in pairs))


def test_controls_show_how_much_sooner_the_first_token_came_with_the_interval():
    said = verdict(session(*with_controls(0.3, 0.4, 0.5, 0.5, 0.6, 0.7)))
    sooner = "The first token came 500 ms sooner in the median, 95 % interval 300 ms to 700 ms."
    assert sooner in said


def test_the_verdict_says_if_the_cache_costs_time():
    said = verdict(session(*with_controls(*[-0.03] * 6)))
    assert "The first token came 30 ms later in the median, 95 % interval 30 ms to 30 ms" in said


def test_a_difference_within_chance_is_no_difference():
    said = verdict(session(*with_controls(0.03, -0.01, 0.02, 0.01, -0.02, 0.03, 0.04)))
    assert " TTFT: no measurable difference, 95 % interval" in said
    assert "20 ms later to 40 ms sooner" not in said.split("interval")[0]
    assert "came" not in said


@pytest.mark.parametrize("saved", [0.004, -0.004, 0.5])
def test_without_cached_tokens_no_time_was_saved(saved):
    said = verdict(session(*with_controls(*[saved] * 7, cached=0)))
    assert "(0 %)" in said
    assert "first token" not in said
    assert "TTFT" not in said


@pytest.mark.parametrize("pairs", [1, 5])
def test_a_note_says_if_there_are_too_few_controls(pairs):
    result = session(*with_controls(*[0.5] * pairs))
    assert "first token" not in verdict(result)
    assert any("at least 6 are needed" in note for note in notes(result))
    assert not any("at least" in note for note in notes(session(*SOUND)))


def test_a_simulated_engine_is_named_first():
    assert verdict(session(*SOUND, simulated=True)).startswith("SIMULATED engine: the cache served")


def test_the_verdict_says_after_how_many_turns_a_session_was_interrupted():
    assert verdict(session(*SOUND), interrupted=True).startswith(
        "Interrupted after 2 turns. In these, the cache served 992 of 2,250 prompt tokens"
    )


@pytest.mark.parametrize("reason", FailureReason)
def test_each_failure_has_a_sentence_that_says_what_to_do(reason):
    said = failure_in_words(failed_session(reason=reason, detail="the detail"))
    assert said.startswith(
        f"The session failed in turn 1: {reason.replace('_', ' ')} (the detail). "
    )
    assert len(said) > 80


@pytest.mark.parametrize(
    ("reason", "named"),
    [
        (FailureReason.CONNECTION_REFUSED, True),
        (FailureReason.CONNECT_FAILED, True),
        (FailureReason.CONNECT_TIMEOUT, True),
        (FailureReason.UNAUTHORIZED, False),
        (FailureReason.MODEL_NOT_FOUND, False),
    ],
)
def test_the_simulated_engine_is_suggested_only_if_no_engine_answers(reason, named):
    assert ("probe --simulated" in failure_in_words(failed_session(reason=reason))) is named
    assert "--simulated" not in failure_in_words(failed_session(*TURNS, reason=reason))


def test_a_wrong_model_or_key_names_the_option_that_sets_it():
    wrong = failed_session(reason=FailureReason.MODEL_NOT_FOUND)
    assert "--model" in failure_in_words(wrong)
    assert "--api-key-file" in failure_in_words(failed_session(reason=FailureReason.UNAUTHORIZED))


def test_a_session_that_failed_after_some_turns_has_the_failure_and_their_numbers():
    said = verdict(failed_session(*SOUND, reason=FailureReason.STALLED))
    assert said.startswith("The session failed in turn 3: stalled")
    assert said.endswith("Before that, the cache served 992 of 2,250 prompt tokens (44.1 %), all "
                         "that it could have.")  # fmt: skip


def test_losses_are_listed_with_their_evidence():
    assert loss_lines(session(*TURNS)) == [
        "Turn 3 lost 256 tokens, unexplained: caching is on and the engine was not restarted."
    ]


def test_turns_with_the_same_cause_and_evidence_share_a_line():
    off = Loss(100, LossCause.DISABLED, "caching is off")
    gone = Loss(50, LossCause.EVICTED, "one preemption")
    lost = [None, off, off, gone, off]
    turns = [replace(turn(place, 1000, 0, 100), loss=loss) for place, loss in enumerate(lost, 1)]
    assert loss_lines(session(*turns)) == [
        "Turns 2, 3 and 5 lost 300 tokens, disabled: caching is off.",
        "Turn 4 lost 50 tokens, evicted: one preemption.",
    ]


def test_turns_whose_evidence_differs_only_in_numbers_share_a_line_with_the_first():
    losses = [
        None,
        Loss(100, LossCause.NEVER_HIT, "a prompt of 507 tokens hit nothing, with room for 1,000"),
        Loss(200, LossCause.NEVER_HIT, "a prompt of 610 tokens hit nothing, with room for 900"),
    ]
    turns = [replace(turn(place, 1000, 0, 100), loss=loss) for place, loss in enumerate(losses, 1)]
    (line,) = loss_lines(session(*turns))
    assert line == (
        "Turns 2 and 3 lost 300 tokens, never hit: in turn 2 a prompt of 507 tokens hit nothing, "
        "with room for 1,000."
    )


def test_an_interrupted_session_does_not_say_that_nothing_is_to_change():
    assert verdict(session(*SOUND)).endswith("Nothing to change.")
    assert "Nothing to change" not in verdict(session(*SOUND), interrupted=True)


def test_the_notes_do_not_repeat_the_verdict():
    notices = frozenset({Notice.USAGE_DETAILS_MISSING, Notice.SCENARIO_SHORTENED})
    found = notes(session(turn(1, 1000, None, 0), notices=notices))
    assert len(found) == 1
    assert "--max-model-len" in found[0]


@pytest.mark.parametrize(
    ("cause", "notice"),
    [
        (LossCause.DISABLED, Notice.PREFIX_CACHING_DISABLED),
        (LossCause.MIXED, Notice.MIXED),
        (LossCause.WEDGED, Notice.CACHE_WEDGED),
    ],
)
def test_the_notes_do_not_repeat_the_cause_of_a_loss(cause, notice):
    lost = turn(2, 1250, 0, 992, cause=cause)
    assert notes(session(TURNS[0], lost, notices=frozenset({notice}))) == []
    without = session(*SOUND, notices=frozenset({notice}))
    assert ADVICE[notice] in [verdict(without)[-len(ADVICE[notice]) :], *notes(without)]


@pytest.mark.parametrize("reason", BreakReason)
def test_one_difference_between_two_prompts_is_not_said_of_every_turn(reason):
    """A template that prints the time in seconds changes only some of the prompts."""
    once = replace(UNSTABLE, turns_compared=7, first_break=replace(BREAK, reason=reason))
    said = verdict(session(*SOUND, prefix=once, notices=frozenset({Notice.PREFIX_UNSTABLE})))
    told = " ".join([said, ADVICE[Notice.PREFIX_UNSTABLE], BREAK_ADVICE[reason]])
    for claim in ("each request", "every turn", "each turn", "near the beginning", "always"):
        assert claim not in told
