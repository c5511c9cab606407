"""The built-in scenario: a coding agent repairs paging in a small web shop, in eight turns.

Its opening is like that of real agents: rules, tool schemas and a handbook of the code base. It is
the same in every turn. Everything that a session sends takes room in the engine's cache, so rules,
tools and turns are short. The handbook makes the opening as long as the engine needs it; without
any, it has about 400 tokens. The text depends only on that length.
"""

from __future__ import annotations

import re
from itertools import count
from typing import TYPE_CHECKING

from exporter.scenario.model import Message, Scenario, ScenarioKind, Tool

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "coding-agent"

_RULES = """\
You are a careful software engineer who works in a repository through tools.
Rules:
1. Read a file before you change it, and keep its style.
2. Make the smallest change that solves the task.
3. Run the tests after each change. Never report success without a passing run.
4. Say what you found in one or two sentences. Name files and functions.
5. Do not touch generated files or anything under vendor/.
6. Do not repeat secrets that you come across."""

_SECTIONS = (
    (
        "orders/ holds the order service. An order is created as a draft, priced by pricing/, and "
        "becomes immutable once it is confirmed. Its tables are orders, order_lines and order_events; "
        "the last one is append-only and is the source of truth when the other two disagree."
    ),
    (
        "pricing/ turns a draft into a priced order. Prices are integers in the currency's smallest "
        "unit, never floats. Discounts apply in the order in which they stand in the rule file, and "
        "the sum of a line is rounded once, at the end, half to even."
    ),
    (
        "catalog/ answers what can be bought. It reads a snapshot that the import job writes every "
        "ten minutes, keeps it in memory, and swaps it in one step. A request sees one snapshot from "
        "beginning to end, so a product cannot change its price half way through a page."
    ),
    (
        "web/ is the HTTP layer. Handlers are thin: parse, call one service function, render. Errors "
        "of a service are mapped to a status in web/errors.py and nowhere else. Every list endpoint "
        "takes limit and cursor and returns next_cursor, or null on the last page."
    ),
    (
        "paging/ is shared by all list endpoints. A cursor is the base64 of the last row's sort key "
        "and its id. The query asks for limit plus one rows: the extra row only says whether there is "
        "a next page and is never returned to the client."
    ),
    (
        "tests/ mirrors the source tree. Unit tests use the in-memory store of tests/fakes.py; tests "
        "under tests/db run against a real database and are marked so. A failing test is fixed in the "
        "code, not in the test, unless the change was meant to alter that behaviour."
    ),
    (
        "jobs/ runs in the background from a table of due work. A job must be safe to run twice. It "
        "takes a row lock, does its work, writes the outcome and releases the lock; a worker that "
        "dies is noticed by the age of its heartbeat and the row is taken again."
    ),
    (
        "Migrations live in db/migrations and are numbered. A migration that drops or renames a "
        "column comes in two releases: the first stops using it, the second removes it. Adding an "
        "index on a large table is done concurrently and outside a transaction."
    ),
    (
        "Logging is structured. A handler logs one line per request with route, status and duration. "
        "Customer names, addresses and card data never reach a log. A warning is something that a "
        "person should look at this week, an error something to look at now."
    ),
    (
        "Configuration comes from the environment and is read once at start in settings.py. A missing "
        "value stops the process with its name. Feature switches are settings as well; a switch that "
        "has been on for two releases is removed together with the code behind it."
    ),
    (
        "Dates are stored in UTC with microseconds and rendered in the customer's zone at the edge. "
        "A day in a report is a day in the shop's zone. Comparing a date with a timestamp is a "
        "mistake that the type checker catches, since the two are different types here."
    ),
    (
        "Releases are cut from main every day at ten. The pipeline runs linting, type checks, unit "
        "tests, database tests and a smoke test against a copy of the shop. A release is rolled back "
        "by deploying the one before it; migrations are written so that this works."
    ),
)

_BETWEEN_SENTENCES = re.compile(r"(?<=\.) ")

_TOPICS = (
    "invoices", "shipping labels", "returns", "stock counts", "supplier imports", "gift cards",
    "tax rates", "customer messages", "search ranking", "image resizing", "audit export",
)  # fmt: skip


def _section(number: int) -> str:
    """The text of handbook section `number` (1…); past the written ones, a service template."""
    if number <= len(_SECTIONS):
        return _SECTIONS[number - 1]
    topic = _TOPICS[number % len(_TOPICS)]
    return (
        f"services/s{number}/ looks after {topic}. Its entry point is services/s{number}/main.py, "
        f"its settings begin with S{number}_, and it listens on port {9000 + number}. It owns the "
        f"tables with the prefix s{number}_ and nobody else writes to them. Its queue is drained "
        f"by {number % 5 + 1} workers, a message is retried {number % 7 + 2} times, and what fails "
        f"then is kept for {number % 4 + 3} weeks so that a person can look at it."
    )


def _handbook(characters: int) -> str:
    """Numbered sections, up to the sentence with which `characters` characters are there."""
    text, sentences = "", _sentences()
    while len(text) < characters:
        text += next(sentences)
    return text


def _sentences() -> Iterator[str]:
    for number in count(1):
        first, *others = _BETWEEN_SENTENCES.split(_section(number))
        yield f"\n\nHandbook, section {number}. {first}"
        yield from (f" {sentence}" for sentence in others)


def _tool(name: str, description: str, argument: str) -> Tool:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {argument: {"type": "string"}},
                "required": [argument],
            },
        },
    }


_TOOLS: tuple[Tool, ...] = (
    _tool("shell", "Run a command and return its output.", "command"),
    _tool("apply_patch", "Apply a unified diff to the working tree.", "patch"),
)

_STEPS = (
    (
        "The second page of a customer's orders sometimes begins with the order that ended the first "
        "page. Find out why. Where would you look first?"
    ),
    (
        "Output of sed -n 14,15p paging.py:\n"
        "shown = rows[:limit]\n"
        "return shown, encode(rows[limit])\n"
        "What does the cursor point at?"
    ),
    (
        "Output of grep -n cursor orders.py:\n"
        "31: key = decode(cursor)\n"
        "32: query = query.where(Order.key > key)\n"
        "Which order is never shown?"
    ),
    (
        "Write the smallest patch for paging.py and orders.py. Explain in one sentence why a client "
        "with an old cursor still works."
    ),
    (
        "Output of pytest tests/paging.py:\n"
        "3 passed, 1 failed: test_last_page\n"
        "IndexError: list index out of range\n"
        "What did the patch miss?"
    ),
    (
        "Output of grep -rn 'page(' web:\n"
        "returns.py:40: page(rows, limit)\n"
        "catalog.py:77: page(rows, limit + 1)\n"
        "Is a caller wrong now?"
    ),
    (
        "Output of pytest tests:\n"
        "128 passed in 6 s\n"
        "Add one test that would have caught this. Name it by what it promises."
    ),
    (
        "Write the release note in two sentences: what was wrong, who noticed, and what is different "
        "now."
    ),
)


def build(padding: int) -> Scenario:
    """The scenario with at least `padding` characters of handbook in its opening."""
    system: Message = {"role": "system", "content": _RULES + _handbook(padding)}
    users: list[Message] = [{"role": "user", "content": text} for text in _STEPS]
    steps = tuple((system, user) if not n else (user,) for n, user in enumerate(users))
    return Scenario(NAME, _TOOLS, steps)


CODING_AGENT = ScenarioKind(NAME, build)
