"""Parses the Markdown that users read: code blocks, commands, links, headings."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

_NOT_RUN = re.compile(r"<!-- not run: (\S.*) -->")
_FENCE = re.compile(r"```(\w*)\s*")
# An indented line that starts like this is a command; other indented blocks show output.
_COMMAND = re.compile(
    r"(?:[A-Z_]+=\S*\s+)*(?:\.venv/bin/)?(?:vllm-cache-exporter|make|curl|docker|python)\s"
)


@dataclass(frozen=True, slots=True)
class Block:
    """A code block; `not_run` is the reason in the comment above it, None where there is none."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    """A line of a block: its variables and words. `toml` is the file shown before it."""

    block: Block
    variables: dict[str, str]
    words: tuple[str, ...]
    toml: str

    @property
    def program(self) -> str:
        return self.words[0].removeprefix(".venv/bin/")

    def __str__(self) -> str:
        return f"{self.block.place} {shlex.join(self.words)}"


def blocks(page: Path) -> list[Block]:
    """Fenced and indented blocks, in their order, also those of list items."""
    found, lines = [], page.read_text("utf-8").splitlines()
    number, not_run = 0, None
    while number < len(lines):
        line, start = lines[number], number + 1
        number += 1
        fence = _FENCE.fullmatch(line.strip())
        comment = _NOT_RUN.fullmatch(line.strip())
        if fence:
            end = next(n for n in range(number, len(lines)) if lines[n].strip() == "```")
            inner = textwrap.dedent("\n".join(lines[number:end]))
            number = end + 1
            found.append(Block(page, start, fence[1], inner, not_run))
        elif line.startswith("    ") and (start == 1 or not lines[start - 2].strip()):
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number]):
                number += 1
            inner = textwrap.dedent("\n".join(lines[start - 1 : number]))
            found.append(Block(page, start, "", inner.rstrip(), not_run))
        if line.strip():
            not_run = comment[1] if comment else None
    return found


def commands(page: Path) -> list[Command]:
    """Every command line of a page."""
    found, toml = [], ""
    for block in blocks(page):
        if block.language == "toml" or re.search(r"^\[\[?\w", block.text, re.MULTILINE):
            lines = block.text.splitlines()
            toml = "\n".join(line for line in lines if not _COMMAND.match(line))
        for line in _command_lines(block):
            words = shlex.split(re.sub(r" > \S+$", "", line), comments=True)
            variables = {}
            while words and re.match(r"[A-Z_]+=", words[0]):
                name, _, value = words.pop(0).partition("=")
                variables[name] = value
            found.append(Command(block, variables, tuple(words), toml))
    return found


def _command_lines(block: Block) -> list[str]:
    lines = re.sub(r"\\\n\s*", " ", block.text).splitlines()
    if block.language in {"sh", "console"}:
        prompt = "$ " if block.language == "console" else ""
        return [
            line.removeprefix(prompt)
            for line in lines
            if line.strip() and line.startswith(prompt) and not line.startswith("#")
        ]
    return [] if block.language else [line for line in lines if _COMMAND.match(line)]


def prose(page: Path) -> str:
    """The page without its code blocks."""
    text = page.read_text("utf-8")
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.+)$", prose(page), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        anchor, number = words, 0
        while anchor in found:
            number += 1
            anchor = f"{words}-{number}"
        found.add(anchor)
    return found
