"""Why the cache did not serve tokens that it could have served: rules on evidence, in order.

The first rule that applies names the cause, so a loss has exactly one. docs/loss-causes.md explains
each rule and the order. A rule returns the cause and its evidence in words, or None.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from exporter.analysis.hits.traffic import pressed
from exporter.analysis.reuse.repeated_prompt import RepeatConditions, RepeatOutcome, judge_repeat
from exporter.model.session import Loss, LossCause

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.analysis.hits.traffic import Traffic
    from exporter.analysis.reuse.engine_knowledge import EngineKnowledge
    from exporter.analysis.reuse.repeated_prompt import Repeat
    from exporter.model.kv_events import LostBlocks


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about a turn that lost tokens, in tokens; None is unknown.

    `expected` is what this engine should have served by its reuse rule, or the ideal while the rule
    is unknown (`rule_known`). `room` is what the cache can take in before it must evict blocks of
    this session. `traffic` is that since the last reading at which the session's prefix was in use.
    `several` is the proof, in words, that several engines answer at this URL, or that the turn ran
    on another replica. `unplaced`: replicas answer, and which one computed the turn is unknown.
    `hit_before`: this engine process served one of the exporter's prompts from cache before.
    `repeat_hit` is what an identical prompt must hit by the rule. `counters_fell`: only that shows
    the restart, because /metrics has no start time. `ranks_used`: so many ranks computed turns of
    this session before. `blocks` is what the engine itself published about the session's blocks;
    it counts more than `room` and `traffic`, which are bounds.
    """

    cached: int
    expected: int
    prompt: int
    match_unit: int
    prefix_caching: bool | None = None
    restarted: bool | None = None
    ranks: int | None = None
    room: float | None = None
    traffic: Traffic | None = None
    repeat: Repeat | None = None
    several: str | None = None
    unplaced: bool = False
    hit_before: bool = False
    rule_known: bool = False
    repeat_hit: int | None = None
    counters_fell: bool = False
    ranks_used: int = 1
    blocks: LostBlocks | None = None

    def judged_by(
        self, knowledge: EngineKnowledge, *, cached: int, expected: int, rule_known: bool
    ) -> Evidence:
        """The evidence by what is known of the turn and its engine now."""
        return replace(
            self,
            cached=cached,
            expected=expected,
            match_unit=knowledge.unit or self.match_unit,
            rule_known=rule_known,
            repeat_hit=knowledge.repeat_hit(self.prompt),
        )

    @property
    def total(self) -> bool:
        """Whether nothing at all came from cache."""
        return self.cached == 0

    @property
    def on_each_rank(self) -> bool:
        """Whether nothing hit, although each of several ranks had computed a part of the session.

        Then no rank explains the loss.
        """
        several = self.ranks is not None and self.ranks > 1
        return self.total and several and self.ranks_used >= (self.ranks or 1)

    @property
    def pressed(self) -> bool | None:
        """Whether blocks of this session can have been evicted; None is unknown."""
        return pressed(self.traffic, self.room) if self.gone is None else self.gone

    @property
    def gone(self) -> bool | None:
        """Whether blocks that the turn needed had left the cache; None: the engine does not say."""
        blocks = self.blocks
        if blocks is None:
            return None
        if blocks.cleared or blocks.again:
            return True
        return False if not blocks.removed and blocks.covered >= self.expected else None

    @property
    def repeated(self) -> tuple[RepeatOutcome, str] | None:
        """What the repeated prompt showed, and why; None without a repeat.

        Where the engine says that blocks of this turn were gone, an earlier repeat shows nothing.
        """
        if self.repeat is None or self.gone:
            return None
        by = RepeatConditions(
            prompt=self.prompt,
            match_unit=self.match_unit,
            repeat_hit=self.repeat_hit,
            room=self.room,
            ranks=self.ranks,
            hit_before=self.hit_before,
            prefix_caching=self.prefix_caching,
            several=self.several is not None,
        )
        return judge_repeat(self.repeat, by)


def loss(evidence: Evidence) -> Loss | None:
    """The loss of a turn with its one cause; None without a loss.

    While the reuse rule is unknown, only a cause that no rule can explain is a loss.
    """
    if evidence.cached >= evidence.expected:
        return None
    cause, text = next(found for rule in RULES if (found := rule(evidence)) is not None)
    if not evidence.rule_known and cause in _MAY_BE_THE_RULE:
        return None
    return Loss(evidence.expected - evidence.cached, cause, text)


_MAY_BE_THE_RULE = (LossCause.OTHER_RANK, LossCause.UNEXPLAINED)


def needs_repeat(evidence: Evidence) -> bool:
    """Whether the same prompt must be sent again to tell the remaining causes apart."""
    settled = any(
        rule(evidence) for rule in (_disabled, _mixed, _restart, _unreported, _other_rank)
    )
    return evidence.total and not settled and evidence.pressed is not True


def on_new_rank(evidence: Evidence) -> bool:
    """Whether the turn ran on a rank that had computed nothing of its session."""
    found = next(filter(None, (rule(evidence) for rule in RULES)))
    return evidence.total and found[0] is LossCause.OTHER_RANK


Verdict = tuple[LossCause, str] | None


def _disabled(evidence: Evidence) -> Verdict:
    if evidence.prefix_caching is not False:
        return None
    return LossCause.DISABLED, 'vllm:cache_config_info has enable_prefix_caching="False"'


def _mixed(evidence: Evidence) -> Verdict:
    if evidence.several is not None:
        return LossCause.MIXED, evidence.several
    traffics = (evidence.traffic, evidence.repeat.traffic if evidence.repeat else None)
    elsewhere = max((one.elsewhere for one in traffics if one is not None), default=0.0)
    if not elsewhere or evidence.prefix_caching is not True:
        return None
    text = (
        f"{_tokens(elsewhere)} of the session's own prompts are missing in the counters on "
        f"/metrics: another engine at this URL computed them"
    )
    return LossCause.MIXED, text


def _restart(evidence: Evidence) -> Verdict:
    if not evidence.restarted:
        return None
    if evidence.counters_fell:
        return LossCause.RESTART, (
            "the engine's counters fell during the session, as after a restart; /metrics has no "
            "process_start_time_seconds"
        )
    return LossCause.RESTART, "process_start_time_seconds changed during the session"


def _unreported(evidence: Evidence) -> Verdict:
    traffic, lost = evidence.traffic, evidence.expected - evidence.cached
    hidden = None if traffic is None else traffic.unreported_hits
    if hidden is not None and hidden > lost / 2:
        alone = ", which ran nothing else," if traffic is not None and traffic.alone else ""
        text = (
            f"the engine{alone} counted at least {hidden:,.0f} more hit tokens for the session in "
            f"vllm:prefix_cache_hits than its usage reported"
        )
        return LossCause.UNREPORTED, text
    most = None if traffic is None else traffic.hits_beyond
    found = evidence.repeated
    if found is None or found[0] is not RepeatOutcome.UNREPORTED:
        return None
    if most is not None and most <= lost / 2:
        return None  # this turn itself did miss
    return LossCause.UNREPORTED, f"the same prompt was sent again at once, and {found[1]}"


def _wedged(evidence: Evidence) -> Verdict:
    found = evidence.repeated
    if found is None or found[0] is not RepeatOutcome.WEDGED or not evidence.total:
        return None
    return LossCause.WEDGED, f"{_missed_again(evidence)}; {found[1]}"


def _never_hit(evidence: Evidence) -> Verdict:
    found = evidence.repeated
    if found is None or found[0] is not RepeatOutcome.NEVER_HIT or not evidence.total:
        return None
    return (
        LossCause.NEVER_HIT,
        f"{_missed_again(evidence)}; {found[1]}, so nothing shows that the cache has stopped",
    )


def _missed_again(evidence: Evidence) -> str:
    traffic = evidence.repeat.traffic if evidence.repeat else None
    return (
        f"the same prompt of {evidence.prompt:,} tokens, sent again at once, hit nothing either; "
        f"in between other requests used {_tokens(traffic.foreign if traffic else None)}, and the "
        f"cache had room for {_tokens(evidence.room)}"
    )


def _evicted(evidence: Evidence) -> Verdict:
    """Only if blocks can have been evicted, and the reuse rule does not explain the loss."""
    traffic, room, blocks = evidence.traffic, evidence.room, evidence.blocks
    if blocks is not None and blocks.cleared:
        return None
    if blocks is not None and blocks.again:
        counted = f"{blocks.removed:,} of this session's {blocks.held:,} blocks"
        return LossCause.EVICTED, f"the engine removed {counted} {_TOLD} (BlockRemoved)"
    full = evidence.pressed
    if full is False:
        return None
    since = "since the session was last seen in the cache"
    if full and traffic is not None:
        text = f"{_used(traffic)} {since}, and the cache had room for {_tokens(room)} beside it"
        return LossCause.EVICTED, text
    unsure = evidence.total or not evidence.rule_known or evidence.ranks != 1
    lost = evidence.expected - evidence.cached
    if unsure or (traffic is not None and traffic.taken < lost):
        return None
    used = "how much others used is unknown" if traffic is None else f"{_used(traffic)} {since}"
    text = (
        f"the session's first {evidence.cached:,} tokens still hit and its end did not, as after "
        f"the eviction of the least recently used blocks; {used}"
    )
    return LossCause.EVICTED, text


_TOLD = "since the turn before, as its KV events say"


def _used(traffic: Traffic) -> str:
    """What can have evicted the session's blocks, in words."""
    parts = {
        f"other requests used {_tokens(traffic.foreign)}": traffic.foreign > 0,
        f"the probe itself used {_tokens(traffic.beside)} under other salts": traffic.beside > 0,
    }
    found = [text for text, holds in parts.items() if holds]
    return " and ".join(found) or "running requests and the session itself took the whole cache"


def _other_rank(evidence: Evidence) -> Verdict:
    if evidence.ranks is None or evidence.ranks < 2:  # noqa: PLR2004 - one rank has no other
        return None
    if evidence.on_each_rank or (evidence.blocks is not None and evidence.blocks.cleared):
        return None
    text = (
        f"the engine has {evidence.ranks} ranks, each with its own cache, and a turn that runs on "
        f"another rank than the turn before hits less; nothing shows that a cache was full"
    )
    return LossCause.OTHER_RANK, text


def _reset(evidence: Evidence) -> Verdict:
    repeat, traffic, blocks = evidence.repeat, evidence.traffic, evidence.blocks
    if blocks is not None and blocks.cleared:
        return LossCause.RESET, f"the engine emptied its whole cache {_TOLD} (AllBlocksCleared)"
    if blocks is not None:
        return None  # the engine says when it empties its cache
    if repeat is None or repeat.cached == 0 or traffic is None or not evidence.total:
        return None
    if evidence.pressed is not False or not evidence.hit_before:
        return None
    text = (
        f"the whole session left the cache at once, although other requests used only "
        f"{_tokens(traffic.foreign)} and the cache had room for {_tokens(evidence.room)}; the same "
        f"prompt, sent again at once, hit {repeat.cached:,} tokens: the cache had been emptied"
    )
    return LossCause.RESET, text


def _unexplained(evidence: Evidence) -> Verdict:
    known = {
        "prefix caching is on": evidence.prefix_caching is True,
        "the engine was not restarted": evidence.restarted is False,
        _not_evicted(evidence): evidence.pressed is False,
        f"each of the {evidence.ranks} ranks had computed a part of the session": (
            evidence.on_each_rank
        ),
    }
    unknown = {
        "whether prefix caching is on": evidence.prefix_caching is None,
        "whether the engine was restarted": evidence.restarted is None,
        "which replica computed the turn": evidence.unplaced,
        "how much others used or the cache holds": evidence.pressed is None,
    }
    parts = [text for text, holds in known.items() if holds]
    parts += [f"not known: {text}" for text, holds in unknown.items() if holds]
    if evidence.repeat is not None:
        parts.append(_of_repeat(evidence, evidence.repeat))
    return LossCause.UNEXPLAINED, "; ".join(parts) or "no rule applies"


def _not_evicted(evidence: Evidence) -> str:
    if evidence.gone is False:
        return "the engine removed no block of the session, as its KV events say"
    return "no other traffic filled the cache"


def _of_repeat(evidence: Evidence, repeat: Repeat) -> str:
    text = f"the same prompt, sent again at once, hit {_tokens(repeat.cached)}"
    found = evidence.repeated
    if found is not None and found[0] is RepeatOutcome.UNKNOWN:
        return f"{text}, which proves little: {found[1]}"
    if repeat.cached and not evidence.hit_before:
        return (
            f"{text}, and in this process no prompt of the probe has hit when it was sent a second "
            f"time: some engines serve a prompt only after they computed it twice"
        )
    return text


RULES: tuple[Callable[[Evidence], Verdict], ...] = (
    _disabled,
    _mixed,
    _restart,
    _unreported,
    _wedged,
    _never_hit,
    _evicted,
    _other_rank,
    _reset,
    _unexplained,
)


def _tokens(count: float | None) -> str:
    return f"{count or 0:,.0f} token{'' if count == 1 else 's'}"
