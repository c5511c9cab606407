"""The tables of docs/engines.md, from the records. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    Record = Mapping[str, Any]

BEGIN = "<!-- engines: begin (make engines-page) -->"
END = "<!-- engines: end -->"
UNKNOWN = "unknown"
_PLAIN = "plain"


def renewed(page: str, records: Iterable[Record]) -> str:
    """The page with its tables written again. Raises `ValueError` if it lacks the marks."""
    before, mark, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"the page lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables(records)}\n{END}{after}"


def tables(records: Iterable[Record]) -> str:
    """All tables: plain engines by version, then the other kinds."""
    rows = sorted(records, key=_place)
    faults = [row for record in rows for row in _fault_rows(record)]
    shown = {title: (rows, columns) for title, columns in _TABLES.items()}
    shown["### Faults"] = (faults, _FAULTS)
    return "\n".join(f"{title}\n\n{_table(*table)}" for title, table in shown.items())


def _place(record: Record) -> tuple[bool, str, list[int], str]:
    plain = record["kind"].startswith(_PLAIN)
    release = [int(part) for part in re.findall(r"\d+", record["version"] or "")]
    return (not plain, "" if plain else record["kind"], release, record["name"])


def _table(records: Sequence[Record], columns: Mapping[str, Callable[[Record], str]]) -> str:
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[cell(record).replace("|", "\\|") for cell in columns.values()] for record in records]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# What is known


def _version(record: Record) -> str:
    return str(record["version"] or UNKNOWN)


def _kind(record: Record) -> str:
    return str(record["kind"])


def _turns(record: Record) -> list[Mapping[str, Any]]:
    """All turns of all sessions."""
    return [turn for session in record["sessions"] for turn in session["turns"]]


def _notices(record: Record) -> set[str]:
    return {notice for session in record["sessions"] for notice in session["notices"]}


_SOURCES = {"usage": "usage", "counters": "counters", "no_hits": "usage; 0 from counters"}


def _cached_from(record: Record) -> str:
    found = {turn["cached_tokens_source"] for turn in _turns(record)}
    if "transfer" in _notices(record):
        return "a transfer, no hit"
    if found <= {None}:
        return UNKNOWN
    order = ("counters", "no_hits", "usage")
    words = _SOURCES[next(source for source in order if source in found)]
    return words if None not in found else f"{words}; not at every turn"


def _zero(record: Record) -> str:
    """Whether a stream reports a hit of 0, by the answers to a new and a repeated prompt."""
    told = record["told"]
    if told["new"] == 0:
        return "reported"
    return "left out" if told["new"] is None and told["repeated"] else UNKNOWN


def _ids(record: Record) -> str:
    if not _turns(record):
        return UNKNOWN
    notices = _notices(record)
    if "token_ids_missing" in notices:
        return "missing"
    recovered = "token_ids_recovered" in notices
    return "`/tokenize` and logprobs" if recovered else "in the answer"


def _salts(record: Record) -> str:
    notices = _notices(record)
    if "salt_refused" in notices:
        return "refused; random text instead"
    if "salt_ignored" in notices:
        return "ignored; random text instead"
    found = _test(record, "isolation")["verdict"]
    return {"pass": "isolate", "fail": "do not isolate"}.get(found, UNKNOWN)


def _test(record: Record, name: str) -> Mapping[str, Any]:
    missing = {"name": name, "verdict": UNKNOWN, "evidence": "the test was not made"}
    return next((test for test in record["check"]["tests"] if test["name"] == name), missing)


_COUNTERS = {
    "queried_tokens": "queried",
    "hit_tokens": "hit",
    "prompt_tokens": "prompt",
    "generation_tokens": "generated",
}


def _counters(record: Record) -> str:
    """Which of the exporter's counters are within a token of the engine's own."""
    differ, absent = [], []
    for name, word in _COUNTERS.items():
        engine, exporter = (record["counters"][name][of] for of in ("engine", "exporter"))
        if engine is None and exporter is None:
            absent.append(word)
        elif engine is None or exporter is None or abs(engine - exporter) > 1:
            differ.append(f"{word} {_number(exporter)} for {_number(engine)}")
    if differ:
        return "differ: " + ", ".join(differ)
    return f"equal; it does not count {' and '.join(absent)}" if absent else "equal"


def _number(value: float | None) -> str:
    return "nothing" if value is None else f"{value:,.0f}"


def _check(record: Record) -> str:
    failed = [f"`{t['name']}`" for t in record["check"]["tests"] if t["verdict"] == "fail"]
    code = str(record["check"]["exit_code"])
    return f"{code}: {', '.join(failed)} failed" if failed else code


# What is reused


def _rule(record: Record) -> str:
    rules = [session["reuse_rule"] for session in record["sessions"] if session.get("reuse_rule")]
    if not rules:
        return UNKNOWN
    rule = rules[-1]
    parts = [f"unit {rule['unit_tokens'] or UNKNOWN}"]
    if (dropped := rule["dropped_blocks"]) != 0:
        blocks = "block" if dropped == 1 else f"{dropped} blocks"
        parts.append(f"lacks the last {blocks}" if dropped else "may lack the last block")
    if (kept := rule["answers_kept"]) is not True:
        parts.append("answers may not be kept" if kept is None else "answers are not kept")
    if rule["lookahead_tokens"]:
        parts.append(
            f"up to {rule['lookahead_tokens']} tokens at the end of a prefix may not count"
        )
    return ", ".join(parts)


def _last(record: Record) -> Sequence[Mapping[str, Any]]:
    """The turns of the last session, in which most is known."""
    turns: Sequence[Mapping[str, Any]] = (
        record["sessions"][-1]["turns"] if record["sessions"] else ()
    )
    return turns


def _sum_of(key: str) -> Callable[[Record], str]:
    def cell(record: Record) -> str:
        values = [turn.get(key) for turn in _last(record)]
        known = [value for value in values if value is not None]
        if not known:
            return UNKNOWN
        missing = len(values) - len(known)
        return f"{sum(known):,}" + (f" ({missing} turns {UNKNOWN})" if missing else "")

    return cell


def _efficiency(record: Record) -> str:
    """Of each turn of the last session after the first, which has nothing to hit."""
    turns = _last(record)[1:]
    ratios = [turn["efficiency_ratio"] for turn in turns]
    words = [UNKNOWN if ratio is None else f"{100 * ratio:.4g} %" for ratio in ratios]
    if not words:
        return UNKNOWN
    if len(set(words)) == 1:
        return words[0] if words[0] == UNKNOWN else f"{words[0]} at each turn"
    return ", ".join(words)


def _losses(record: Record) -> str:
    return _by_cause(turn["loss"] for turn in _turns(record) if turn["loss"])


def _given_up(record: Record) -> str:
    return _by_cause(loss for turn in _turns(record) for loss in turn.get("rule_losses", ()))


def _by_cause(losses: Iterable[Mapping[str, Any]]) -> str:
    """Tokens of all sessions, by cause."""
    lost: dict[str, int] = {}
    for loss in losses:
        lost[loss["cause"]] = lost.get(loss["cause"], 0) + loss["tokens"]
    return ", ".join(f"`{cause}` {tokens:,}" for cause, tokens in sorted(lost.items())) or "none"


def _said(record: Record) -> str:
    return ", ".join(f"`{notice}`" for notice in sorted(_notices(record))) or "none"


# What is not known


def _gaps(record: Record) -> str:
    """The tests of `check` that are not passed by their evidence, the turns with gaps, the note."""
    tests: dict[tuple[str, str], list[str]] = {}
    for test in record["check"]["tests"]:
        if test["verdict"] != "pass":
            tests.setdefault((test["verdict"], test["evidence"]), []).append(f"`{test['name']}`")
    parts = [f"{', '.join(found)} {key[0]}: {key[1]}." for key, found in tests.items()]
    ended = [session["failure"] for session in record["sessions"] if session["failure"]]
    parts += [f"A session failed: {failure['detail']}." for failure in ended[:1]]
    turns = _turns(record)
    for key, words in (("cached_tokens", "cached tokens"), ("ideal_cached_tokens", "ideal")):
        missing = sum(turn.get(key) is None for turn in turns)
        if missing:
            parts.append(f"The {words} of {missing} of {len(turns)} turns.")
    if record.get("note"):
        parts.append(record["note"])
    return " ".join(parts).replace("..", ".") or "nothing"


# Faults


def _fault_rows(record: Record) -> list[Record]:
    """One row for each session with a fault, or one with the reason why there is none."""
    engine = {key: record[key] for key in ("version", "kind")}
    faults = record.get("faults", {"sessions": ()})
    if "reason" in faults:
        return [engine | {"fault": None, "reason": faults["reason"]}]
    cache = {"blocks": faults.get("blocks")}
    played = [session for session in faults["sessions"] if session["before_turn"]]
    return [engine | cache | session for session in played]


_FAULT_WORDS = {
    "reset": "`/reset_prefix_cache`",
    "restart": "restart",
    "eviction": "another client, cache of {blocks} blocks",
}


def _fault(row: Record) -> str:
    if row["fault"] is None:
        return f"not played: {row['reason']}"
    words = _FAULT_WORDS[row["fault"]].format(blocks=row["blocks"])
    return f"{words}, before turn {row['before_turn']}"


def _of_session(cell: Callable[[Record], str]) -> Callable[[Record], str]:
    """A cell that is empty where no session was played."""
    return lambda row: "" if row["fault"] is None else cell(row)


def _hit_turn(row: Record) -> Mapping[str, Any]:
    """The turn that the fault preceded; empty if the session ended before it."""
    return next((turn for turn in row["turns"] if turn["turn"] == row["before_turn"]), {})


def _lost(row: Record) -> str:
    turn = _hit_turn(row)
    attainable, loss = turn.get("attainable_cached_tokens"), turn.get("loss")
    if attainable is None or turn["cached_tokens"] is None:
        return UNKNOWN
    if attainable == 0:
        changed = ": the prompt had changed" if "prefix_unstable" in row["notices"] else ""
        return f"nothing was attainable{changed}"
    return f"{loss['tokens'] if loss else 0:,} of {attainable:,}"


def _cause(row: Record) -> str:
    loss = _hit_turn(row).get("loss")
    return f"`{loss['cause']}`" if loss else "none"


def _given_up_there(row: Record) -> str:
    return _by_cause(_hit_turn(row).get("rule_losses", ()))


def _given_up_in_all(row: Record) -> str:
    return _by_cause(loss for turn in row["turns"] for loss in turn["rule_losses"])


def _lost_elsewhere(row: Record) -> str:
    others = [turn for turn in row["turns"] if turn["turn"] != row["before_turn"]]
    return _by_cause(turn["loss"] for turn in others if turn["loss"])


def _rule_after(row: Record) -> str:
    """Whether each part of the rule that was known before is the same after the session."""
    before, after = row["rule_before"], row["reuse_rule"]
    if before is None or after is None:
        return UNKNOWN
    differ = [part for part, value in before.items() if value not in (None, after[part])]
    if any(after[part] is not None for part in differ):
        return f"another: {', '.join(differ)}"
    if differ:
        return f"no longer known: {', '.join(differ)}"
    return "found again" if row["fault"] == "restart" else "stays"


_FAULTS: Mapping[str, Callable[[Record], str]] = {
    "vLLM": _version,
    "kind": _kind,
    "fault": _fault,
    "lost": _of_session(_lost),
    "cause": _of_session(_cause),
    "given up by the rule there": _of_session(_given_up_there),
    "given up in the session": _of_session(_given_up_in_all),
    "rule": _of_session(_rule_after),
    "lost at other turns": _of_session(_lost_elsewhere),
}
_TABLES: Mapping[str, Mapping[str, Callable[[Record], str]]] = {
    "### What is known": {
        "vLLM": _version,
        "kind": _kind,
        "cached tokens from": _cached_from,
        "a hit of 0": _zero,
        "token ids": _ids,
        "salts": _salts,
        "counters": _counters,
        "`check`": _check,
    },
    "### What is reused": {
        "vLLM": _version,
        "kind": _kind,
        "rule": _rule,
        "cached": _sum_of("cached_tokens"),
        "attainable": _sum_of("attainable_cached_tokens"),
        "ideal": _sum_of("ideal_cached_tokens"),
        "efficiency": _efficiency,
        "given up by the rule": _given_up,
        "lost": _losses,
        "notices": _said,
    },
    "### What failed or is not known, and why": {
        "vLLM": _version,
        "kind": _kind,
        "failed or not known": _gaps,
    },
}
