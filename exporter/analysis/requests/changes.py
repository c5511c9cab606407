"""What a client changed between an earlier request and one that continues it.

Changes are in the order in which most chat templates write a prompt: the system prompt, the tools,
then the messages. What is new at the end of a request is no change.
"""

from __future__ import annotations

from collections import Counter
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Final

from exporter.analysis.requests.kinship import kinship_key
from exporter.analysis.requests.texts import TextChange, text_change
from exporter.model.explained import Change, ChangeReason, Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from exporter.model.recorded import Message, RecordedRequest, Tool

_SHOWN = 120
"""Characters of a text that are kept from a change on."""
_SYSTEM: Final = ("system", "developer")


def changes(earlier: RecordedRequest, later: RecordedRequest) -> Iterator[Change]:
    """All changes, the first in the prompt first."""
    yield from _of_cache(earlier, later)
    yield from _of_settings(earlier, later)
    found = list(_of_messages(earlier, later))
    first = [change for change in found if change.place.section == "system"]
    yield from first
    yield from _of_tools(earlier.tools, later.tools)
    yield from (change for change in found if change.place.section != "system")


def _of_cache(earlier: RecordedRequest, later: RecordedRequest) -> Iterator[Change]:
    if earlier.model != later.model:
        place = Place("model")
        yield Change(ChangeReason.MODEL_CHANGED, place, earlier.model, later.model)
    if earlier.salt != later.salt:
        yield Change(ChangeReason.SALT_CHANGED, Place("salt"))


def _of_settings(earlier: RecordedRequest, later: RecordedRequest) -> Iterator[Change]:
    before, after = dict(earlier.settings), dict(later.settings)
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name, ""), after.get(name, "")
        if one != other:
            place = Place("settings", name=name)
            yield Change(ChangeReason.TEMPLATE_ARGUMENTS, place, one[:_SHOWN], other[:_SHOWN])


def _of_tools(earlier: Sequence[Tool], later: Sequence[Tool]) -> Iterator[Change]:
    before, after = [tool.name for tool in earlier], [tool.name for tool in later]
    found = [*_of_list_of_tools(before, after)]
    texts = {tool.name: tool.text for tool in earlier}
    for number, tool in enumerate(later, start=1):
        text = texts.get(tool.name, tool.text)
        if (differs := text_change(text, tool.text)) is not None:
            place = Place("tools", number, tool.name, None, differs.index + 1)
            found.append(_change(differs, place, text, tool.text))
    yield from sorted(found, key=lambda change: change.place.number or 0)


def _of_list_of_tools(before: Sequence[str], after: Sequence[str]) -> Iterator[Change]:
    lost, gained = _without(before, after), _without(after, before)
    if lost:
        place = Place("tools", before.index(lost[0]) + 1, lost[0])
        yield Change(ChangeReason.TOOLS_REMOVED, place, ", ".join(lost)[:_SHOWN])
    if gained:
        place = Place("tools", after.index(gained[0]) + 1, gained[0])
        yield Change(ChangeReason.TOOLS_ADDED, place, later=", ".join(gained)[:_SHOWN])
    kept = zip(_without(before, lost), _without(after, gained), strict=True)
    moved = next((pair for pair in kept if pair[0] != pair[1]), None)
    if moved is not None:
        place = Place("tools", after.index(moved[1]) + 1, moved[1])
        yield Change(ChangeReason.TOOLS_REORDERED, place, *moved)


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """The names that are left when each of the others is taken out once."""
    left = Counter(others)
    kept = []
    for name in names:
        if left[name]:
            left[name] -= 1
        else:
            kept.append(name)
    return kept


def _of_messages(earlier: RecordedRequest, later: RecordedRequest) -> Iterator[Change]:
    before = (*earlier.messages, *earlier.answer)
    after = later.messages
    start = next(
        (n for n, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), None
    )
    if start is None:
        return
    old_keys, new_keys = ([kinship_key(one) for one in each[start:]] for each in (before, after))
    matcher = SequenceMatcher(None, old_keys, new_keys, autojunk=False)
    for kind, i1, i2, j1, j2 in matcher.get_opcodes():
        ends = i2 == len(old_keys)
        old, new = before[start + i1 : start + i2], after[start + j1 : start + j2]
        if kind == "equal":
            yield from _of_pairs(old, new, start + j1, later)
        elif kind == "replace":
            yield from _replaced(old, new, start + j1, later, ends=ends)
        elif _are_reasoning((*old, *new)):
            stripped = kind == "delete"
            reason = ChangeReason.REASONING_STRIPPED if stripped else ChangeReason.REASONING_ECHOED
            yield _of_history(reason, old, new, start + j1, later)
        elif not ends:
            kinds = {"delete": ChangeReason.HISTORY_TRUNCATED}
            reason = kinds.get(kind, ChangeReason.HISTORY_EDITED)
            yield _of_history(reason, old, new, start + j1, later)


def _are_reasoning(messages: Sequence[Message]) -> bool:
    """Whether messages are the reasoning items of /v1/responses."""
    return all(one.fields and {name for name, _ in one.fields} == {"reasoning"} for one in messages)


def _replaced(
    old: Sequence[Message],
    new: Sequence[Message],
    index: int,
    later: RecordedRequest,
    *,
    ends: bool,
) -> Iterator[Change]:
    if old[0].role == new[0].role and (len(old) == len(new) or old[0].role in _SYSTEM or ends):
        yield from _of_pairs(old[:1], new[:1], index, later)
        old, new, index = old[1:], new[1:], index + 1
        if len(old) == len(new):
            yield from _of_pairs(old, new, index, later)
            return
    if not ends and (old or new):
        shorter = len(new) < len(old)
        reason = ChangeReason.HISTORY_COMPACTED if shorter else ChangeReason.HISTORY_EDITED
        if not new:
            reason = ChangeReason.HISTORY_TRUNCATED
        yield _of_history(reason, old, new, index, later)


def _of_history(
    reason: ChangeReason,
    old: Sequence[Message],
    new: Sequence[Message],
    index: int,
    later: RecordedRequest,
) -> Change:
    return Change(reason, _place(later, index), _beginning(old), _beginning(new))


def _beginning(messages: Sequence[Message]) -> str:
    texts = (text for message in messages[:1] for _, text in message.fields)
    return next(texts, "")[:_SHOWN]


def _of_pairs(
    old: Sequence[Message], new: Sequence[Message], index: int, later: RecordedRequest
) -> Iterator[Change]:
    for offset, (one, other) in enumerate(zip(old, new, strict=False)):
        if one != other:
            yield from _of_message(one, other, index + offset, later)


def _of_message(
    one: Message, other: Message, index: int, later: RecordedRequest
) -> Iterator[Change]:
    before, after = dict(one.fields), dict(other.fields)
    if "reasoning" in before and "reasoning" not in after:
        place = _place(later, index, "reasoning")
        yield Change(ChangeReason.REASONING_STRIPPED, place, before["reasoning"][:_SHOWN])
    elif "reasoning" in after and "reasoning" not in before:
        place = _place(later, index, "reasoning")
        yield Change(ChangeReason.REASONING_ECHOED, place, "", after["reasoning"][:_SHOWN])
    for name in dict.fromkeys((*before, *after)):
        if name == "reasoning" and (name not in before or name not in after):
            continue
        text, new = before.get(name, ""), after.get(name, "")
        if (found := text_change(text, new)) is not None:
            yield _change(found, _place(later, index, name, found.index + 1), text, new)


def _change(found: TextChange, place: Place, earlier: str, later: str) -> Change:
    start = found.index
    return Change(
        found.reason, place, earlier[start : start + _SHOWN], later[start : start + _SHOWN]
    )


def _place(
    request: RecordedRequest, index: int, name: str | None = None, character: int | None = None
) -> Place:
    """The place of a message by its index in the prompt."""
    if index >= len(request.messages):
        return Place("message", None, None, name, character)
    role = request.messages[index].role
    number: int | None = index + 1
    if request.begins_with_system:
        number = index or None
    first = index == 0 and role in _SYSTEM
    return Place("system" if first else "message", number, role, name, character)
