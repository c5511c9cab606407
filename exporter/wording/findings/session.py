"""What `check` found of a session: what the turns were served, lost and reported. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.analysis.salt_trust import knows_salts
from exporter.analysis.session_totals import session_totals
from exporter.model.chat import CachedTokensSource
from exporter.model.session import LossCause, Notice
from exporter.wording import numbers
from exporter.wording.findings.finding import (
    TRANSFER,
    UNREPORTED,
    CheckTest,
    Finding,
    failed,
    passed,
    unknown,
)
from exporter.wording.notices import (
    ADVICE,
    BREAK_ADVICE,
    LOSS_ADVICE,
    REPORT_CACHED,
    advice_at_terminal,
    break_in_words,
)
from exporter.wording.reuse_rules import amounts_given_up
from exporter.wording.routing import route_in_words
from exporter.wording.sentences import ALL_BY_RULE, in_failed_turn

if TYPE_CHECKING:
    from exporter.analysis.session_totals import SessionTotals
    from exporter.model.session import Loss, SessionResult


def of_engines(session: SessionResult) -> Finding:
    """Whether one engine answers at the URL, as far as the session shows it."""
    name = CheckTest.ONE_ENGINE
    if Notice.MIXED in session.notices:
        loss = _first_loss(session, LossCause.MIXED)
        text = loss.evidence if loss else "several engines answer at this URL in turn"
        route = route_in_words(session.turns)
        said = text if route is None else f"{text}. {route.removesuffix('.')}"
        return failed(name, said, LOSS_ADVICE[LossCause.MIXED])
    if not session.turns:
        return unknown(name, _no_turn(session))
    if (drop := _unexplained_drop(session)) is not None:
        text = f"{drop}, as happens when a router sends each request to another engine"
        return unknown(name, text)
    if (route := route_in_words(session.turns)) is not None:
        return passed(name, route.removesuffix("."))
    return passed(name, "nothing shows that several engines answer at this URL")


def of_usage_details(session: SessionResult) -> Finding:
    name = CheckTest.USAGE_DETAILS
    if Notice.USAGE_MISSING in session.notices:
        return failed(name, "streams end without usage", ADVICE[Notice.USAGE_MISSING])
    if Notice.USAGE_UNUSABLE in session.notices:
        text = "the usage of at least one answer is wrong"
        return failed(name, text, ADVICE[Notice.USAGE_UNUSABLE])
    hidden = _first_loss(session, LossCause.UNREPORTED)
    if hidden is not None:
        return failed(name, hidden.evidence, LOSS_ADVICE[LossCause.UNREPORTED])
    if Notice.TRANSFER in session.notices:
        return unknown(name, TRANSFER, ADVICE[Notice.TRANSFER])
    if Notice.USAGE_DETAILS_MISSING in session.notices:
        return failed(name, "usage has no prompt_tokens_details", REPORT_CACHED)
    if not session.turns:
        return unknown(name, _no_turn(session))
    if Notice.CACHED_TOKENS_UNKNOWN in session.notices:
        text = (
            "usage has no prompt_tokens_details: either no token was cached, or this server does "
            "not report cached tokens"
        )
        return unknown(name, text, ADVICE[Notice.CACHED_TOKENS_UNKNOWN])
    by = [turn.cached_tokens_source for turn in session.turns]
    if Notice.CACHED_FROM_COUNTERS in session.notices:
        known = len(by) - by.count(None)
        text = (
            "usage has no prompt_tokens_details; the engine's counters give the cached tokens "
            f"of {known} of {len(by)} turns"
        )
        return passed(name, text) if known == len(by) else failed(name, text, REPORT_CACHED)
    if CachedTokensSource.USAGE not in by:
        text = "no prompt hit, and this server reports hits only, as vLLM before 0.24 does"
        return unknown(name, text)
    return passed(name, "usage reports how many prompt tokens were cached")


def of_token_ids(session: SessionResult) -> Finding:
    name = CheckTest.TOKEN_IDS
    if not session.turns:
        return unknown(name, _no_turn(session))
    if Notice.TOKEN_IDS_MISSING in session.notices:
        text = "the answers have none, so the ideal and the prefix's stability are unknown"
        return unknown(name, text, ADVICE[Notice.TOKEN_IDS_MISSING])
    if Notice.TOKEN_IDS_RECOVERED in session.notices:
        known = sum(turn.ideal_cached_tokens is not None for turn in session.turns[1:])
        text = (
            "the answers have none; /tokenize and logprobs or texts give the ideal of "
            f"{known} of {len(session.turns) - 1} later turns"
        )
        return passed(name, text) if known else unknown(name, text)
    return passed(name, "the server sends those of prompts and answers")


def of_first_turn(session: SessionResult) -> Finding:
    """Whether the engine computed the whole first turn, which has a new salt."""
    name = CheckTest.COLD_START
    if Notice.TRANSFER in session.notices:
        return unknown(name, TRANSFER, ADVICE[Notice.TRANSFER])
    if Notice.SALT_REFUSED in session.notices:
        return unknown(name, "the server refuses cache_salt", ADVICE[Notice.SALT_REFUSED])
    if not knows_salts(session.engine_version):
        text = f"vLLM {session.engine_version} does not know cache_salt"
        return unknown(name, text, ADVICE[Notice.SALT_IGNORED])
    if session.nonce_in_prompt:
        return failed(
            name,
            "the first turn of a session with a new salt hit the cache; the session was "
            "restarted with random words at the beginning",
            "Upgrade vLLM to a version that supports cache_salt (0.9 and later), or find out "
            "whether a KV store behind it ignores salts.",
        )
    first = session.turns[0] if session.turns else None
    if first is None:
        return unknown(name, _no_turn(session))
    if first.cached_tokens is None:
        return unknown(name, UNREPORTED)
    return passed(name, "the first turn, with a new salt, hit nothing")


def of_second_turn(session: SessionResult) -> Finding:
    """Whether the turns after the first were served what the engine's reuse rule allows."""
    name = CheckTest.SECOND_TURN
    if session.failure is not None:
        where = in_failed_turn(session)
        text = f"the session failed{where}: {session.failure.reason}: {session.failure.detail}"
        return failed(name, text, advice_at_terminal(session.failure.reason))
    later = session.turns[1:]
    totals = session_totals(later)
    hidden = _first_loss(session, LossCause.UNREPORTED)
    if hidden is not None:
        tokens = totals.lost_by[hidden.cause]
        text = f"usage hides hits; lost: {numbers.count(tokens)} unreported; {hidden.evidence}"
        return failed(name, text, LOSS_ADVICE[hidden.cause])
    if not later or totals.cached_tokens is None:
        if Notice.TRANSFER in session.notices:
            return unknown(name, TRANSFER, ADVICE[Notice.TRANSFER])
        return unknown(name, UNREPORTED)
    prompt = sum(turn.prompt_tokens or 0 for turn in later)
    served = (
        f"{numbers.count(totals.cached_tokens)} of {numbers.count(prompt)} prompt tokens of turns "
        f"2 to {len(later) + 1} came from cache"
    )
    rule = "".join(f". {amount}" for amount in amounts_given_up(session).values())
    if totals.lost_by:
        return _of_losses(served, session, totals, rule)
    if Notice.BLOCK_TOO_LARGE in session.notices:
        text = "no prompt that fits the context fills a whole cache block"
        return unknown(name, text, ADVICE[Notice.BLOCK_TOO_LARGE])
    return _of_served(served, session, totals, rule)


def _of_served(served: str, session: SessionResult, totals: SessionTotals, rule: str) -> Finding:
    """Of a session without a loss. `rule` is what the reuse rule gives up."""
    name = CheckTest.SECOND_TURN
    if totals.cached_tokens == 0:
        if totals.attainable_tokens == 0 and totals.rule_lost_by:
            return unknown(name, f"{served}, and by the reuse rule none could have{rule}")
        return failed(name, f"{served}; see prefix_stable, prefix_caching and wedge")
    if (drop := _unexplained_drop(session)) is not None:
        return unknown(name, f"{served}; {drop}", LOSS_ADVICE[LossCause.MIXED])
    if totals.ideal_tokens is None:
        return passed(name, f"{served}; the ideal is unknown")
    if totals.attainable_tokens is None:
        text = f"{served}; what could have is unknown, see reuse_rule"
        drop = _unexplained_drop(session, by_rule=True)
        return passed(name, text) if drop is None else unknown(name, f"{text}; {drop}")
    could = ALL_BY_RULE if totals.rule_lost_by else "all that could have"
    return passed(name, f"{served}, {could} (efficiency 100 %){rule}")


def _of_losses(served: str, session: SessionResult, totals: SessionTotals, rule: str) -> Finding:
    """What was lost, and why; `rule` is what the reuse rule gives up beside it. If part was served
    and nothing explains the rest, that is no failure.
    """
    lost = totals.lost_by
    worst = max(lost, key=lambda cause: lost[cause])
    causes = ", ".join(f"{numbers.count(tokens)} {cause}" for cause, tokens in lost.items())
    first = _first_loss(session, worst)
    evidence = first.evidence if first else ""
    text = f"{served}; lost: {causes}; turn {totals.lost_in[worst][0]}: {evidence}{rule}"
    harmless = totals.cached_tokens and set(lost) == {LossCause.UNEXPLAINED}
    return (unknown if harmless else failed)(CheckTest.SECOND_TURN, text, LOSS_ADVICE[worst])


def _unexplained_drop(session: SessionResult, *, by_rule: bool = False) -> str | None:
    """A turn of unknown ideal that hit less than an earlier one although nothing says why; None
    without one. `by_rule`: also a turn of which only the attainable tokens are unknown.

    Each prompt repeats the turn before, so hits only grow on one healthy engine.
    """
    stable = session.prefix is None or session.prefix.stable
    most = 0
    for turn in session.turns[1:] if stable else ():
        cached = turn.cached_tokens
        others = any(one.cached_tokens for one in session.turns[1:])
        could = turn.attainable_cached_tokens if by_rule else turn.ideal_cached_tokens
        if cached is None or could is not None:
            continue
        if cached < most or (cached == 0 and others):
            prompt = numbers.tokens(turn.prompt_tokens)
            return f"turn {turn.index} hit {numbers.count(cached)} of {prompt}"
        most = cached
    return None


def _first_loss(session: SessionResult, cause: LossCause) -> Loss | None:
    losses = (turn.loss for turn in session.turns)
    return next((loss for loss in losses if loss is not None and loss.cause is cause), None)


def of_prefix(session: SessionResult) -> Finding:
    name = CheckTest.PREFIX_STABLE
    prefix = session.prefix
    if prefix is None:
        return unknown(name, "no two consecutive turns have token ids")
    found = prefix.first_break
    if found is None:
        return passed(name, f"{prefix.turns_compared} prompts began with the turn before them")
    text = f"{numbers.spaced(found.reason)}: {break_in_words(found)}"
    if prefix.stable:
        return passed(name, f"{text} {BREAK_ADVICE[found.reason]}")
    return failed(name, text, BREAK_ADVICE[found.reason])


def _no_turn(session: SessionResult) -> str:
    return f"no turn finished: {session.failure.detail}" if session.failure else "no turn finished"
