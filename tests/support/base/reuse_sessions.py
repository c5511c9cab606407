"""Random sessions as an engine with a given reuse rule serves them, and the facts of their turns."""

from __future__ import annotations

from itertools import product

from hypothesis import strategies as st

from exporter.analysis.reuse.cache_math import Reusable
from exporter.analysis.reuse.engine_knowledge import EngineKnowledge
from exporter.analysis.reuse.learning import Hints, Observation
from exporter.analysis.reuse.rule import Earlier, Rule, prefix_of, served
from exporter.analysis.turn_facts import TurnBasis, turn_facts
from exporter.model.chat import Chat, Usage

LABELS = (16, 32, 64, 128, 256, 528, 1056, 2112)
DRAFTS = (1, 3, 5, 7)


@st.composite
def rules(draw, look_ahead=(0, *DRAFTS)):
    """A rule of the family, and the label on its engine's /metrics."""
    label = draw(st.sampled_from(LABELS))
    factor = draw(st.sampled_from([1, 1, 2, 3, 4, 33]))
    unit = label * factor if label * factor <= max(LABELS) else label
    dropped, kept = draw(st.integers(0, 1)), draw(st.booleans())
    draft = draw(st.sampled_from(look_ahead))
    return label, Rule(unit, dropped, kept, draft + 1 if draft and not dropped else 0)


@st.composite
def hints_for(draw, label, rule):
    """What /metrics tells of the rule: all, nothing or a part, and nothing false."""
    uneven = not rule.answers_kept or rule.unit_tokens != label
    speculative = bool(rule.dropped_blocks or rule.lookahead_tokens)
    draft = rule.lookahead_tokens - 1 if rule.lookahead_tokens else 3
    tells_speculation = bool(rule.lookahead_tokens) or draw(st.booleans())
    return Hints(
        label,
        uneven if draw(st.booleans()) else None,
        speculative if tells_speculation else None,
        draft if tells_speculation and speculative else None,
    )


@st.composite
def sessions(draw, unit, turns=(5, 12)):
    """The prefixes of a session's turns. Its history is rewritten in at most one turn."""
    growth = draw(st.sampled_from([(1, unit), (unit, 3 * unit), (50, 400), (200, 2000)]))
    answers = draw(st.sampled_from([(1, 16), (20, 64), (100, 400), (1, 2 * unit)]))
    number = draw(st.integers(*turns))
    rewritten = draw(st.none() | st.integers(1, number - 1))
    prompt, before, prefixes = draw(st.integers(*growth)), [], []
    for turn in range(number):
        prefixes.append(prefix_of(prompt, [Earlier(one.prompt, one.shared) for one in before]))
        total = prompt + draw(st.integers(*answers))
        before.append(Earlier(prompt, total - 1))
        same = draw(st.integers(1, total)) if turn == rewritten else total
        before = [Earlier(one.prompt, min(one.shared, same)) for one in before]
        prompt = same + draw(st.integers(*growth))
    return prefixes


@st.composite
def hits_of(draw, rule, prefixes):
    """What a sound engine with the rule serves of each later turn."""
    found = []
    for prefix in prefixes[1:]:
        span, unit = served(rule, prefix), rule.unit_tokens
        units = draw(st.integers(span.least // unit, span.most // unit))
        found.append(Observation(prefix, units * unit))
    return found


def learned_from(seen, hints):
    """The knowledge of one process after these observations."""
    knowledge = EngineKnowledge(hints)
    for one in seen:
        knowledge.observe(one)
    return knowledge


def facts_of(seen, knowledge, evidence=None):
    """The facts of a later turn that hit as observed."""
    usage = Usage(seen.prefix.prompt, 8, seen.cached)
    turn = Chat(index=2, sent_at=0, token_times=(), finished_at=1, usage=usage, finish_reason=None)
    shared = Reusable(seen.prefix, seen.prefix)
    return turn_facts(turn, TurnBasis(False, knowledge, shared, evidence))


def also_explaining(rule, label, seen):
    """The other rules of the whole family that explain all that was seen."""
    most = max((one.cached for one in seen), default=0)
    units = [unit for unit in range(label, most + 1, label) if _divides(unit, seen)]
    steps = {0, rule.lookahead_tokens, *(draft + 1 for draft in DRAFTS)}
    family = {
        Rule(unit, dropped, kept, 0 if dropped else step)
        for unit, dropped, kept, step in product(units, (0, 1), (True, False), steps)
    }
    return [one for one in family - {rule} if all(hit.fits(one) for hit in seen)]


def _divides(unit, seen):
    return all(one.cached % unit == 0 for one in seen)
