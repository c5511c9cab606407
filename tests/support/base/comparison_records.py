"""Sessions for the tests of a comparison."""

from __future__ import annotations

from dataclasses import replace

from publish_records import STARTED, session, turn

from exporter.model.session import Control, ControlOutcome

LENGTHS = ((1000, 0), (1250, 992), (1500, 1232), (1700, 1488))


def played(
    number: int = 0, *, extra: float = 0.0, caching: bool = True, known: bool = True, **fields
):
    """Session `number`: prefill costs 0.2 ms per token over a floor of 20 ms, and `extra`."""
    turns = []
    for index, (prompt, cached) in enumerate(LENGTHS, start=1):
        hit = cached if caching else 0
        ttft = 0.02 + 0.0002 * (prompt - hit) + extra + 0.0001 * number
        told = hit if known else None
        turns.append(turn(index, prompt, told, told, ttft=ttft, latency=ttft + 0.4))
    return session(*turns, started=STARTED + 60 * number, **fields)


def with_controls(one, extra=0.0):
    """Each turn after the first once more, cold, and later by `extra` seconds."""
    return replace(
        one,
        turns=tuple(
            turn
            if turn.index == 1
            else replace(
                turn,
                control=Control(
                    ControlOutcome.COLD,
                    True,
                    turn.prompt_tokens,
                    32,
                    0.02 + 0.0002 * turn.prompt_tokens + extra,
                ),
            )
            for turn in one.turns
        ),
    )
