"""Every command in the docs is run, or its arguments are checked and a reason is given."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import sys
import urllib.request
from typing import TYPE_CHECKING

import pytest
import yaml
from commands import engine_beside, run_command
from doc_pages import PAGES, ROOT, Command, blocks, commands

from exporter import config
from exporter.cli.main import build_parser

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 60.0  # seconds; a bound for what takes a few
ENGINE = "http://127.0.0.1:8000"  # where the docs have it
DEMANDS_MORE = {
    "docker": "needs Docker; tests/deploy runs the stack and the image",
    "python": "a script of this repository; its own tests run it",
    "make": "it would run these tests again",
}
"""Programs that these tests do not run; their arguments are checked."""

ALL = [command for page in PAGES for command in commands(page)]


def unique(program: str, *first: str) -> list[object]:
    """The commands of a program, each once, without those marked as not run."""
    found = {
        (command.words, tuple(sorted(command.variables.items())), command.toml): command
        for command in ALL
        if command.program == program
        and command.block.not_run is None
        and (not first or command.words[1] in first)
    }
    return [pytest.param(command, id=str(command)) for command in found.values()]


def test_there_are_commands_of_all_kinds():
    programs = [command.program for command in ALL]
    for program in ("vllm-cache-exporter", "make", "curl", "docker"):
        assert programs.count(program) >= 3
    assert sum(command.block.not_run is not None for command in ALL) >= 3


@pytest.mark.parametrize("command", [pytest.param(one, id=str(one)) for one in ALL])
def test_every_command_is_run_or_has_a_reason(command):
    known = {"vllm-cache-exporter", "curl", *DEMANDS_MORE}
    assert command.program in known or command.block.not_run


@pytest.mark.parametrize(
    "command",
    [pytest.param(one, id=str(one)) for one in ALL if one.program == "vllm-cache-exporter"],
)
def test_the_exporter_understands_its_arguments(command):
    arguments = list(command.words[1:])
    options = build_parser(arguments).parse_args(arguments)  # SystemExit where it does not
    assert callable(options.main)


@pytest.mark.parametrize("command", unique("make"))
def test_make_has_the_target(command):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert {word for word in command.words[1:] if "=" not in word} <= targets


@pytest.mark.parametrize("command", unique("docker"))
def test_docker_commands_name_existing_files_services_and_images(command):
    words = command.words
    named = [words[place + 1] for place, word in enumerate(words[:-1]) if word == "--env-file"]
    assert all((ROOT / name).is_file() for name in named)
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    if words[1] == "compose" and "logs" in words:
        assert words[-1] in compose["services"]
    images = [word for word in words if word.startswith("vllm-cache-exporter:")]
    assert all(word in compose["services"]["exporter"]["image"] for word in images)


@pytest.mark.parametrize("command", unique("python"))
def test_python_commands_name_existing_modules_or_files(command):
    words = command.words
    if words[1] == "-m":
        assert words[2] == "pytest" or (ROOT / words[2].replace(".", "/")).exists()
    files = [word for word in words if word.endswith(".py") or word.startswith("tests/")]
    assert all((ROOT / name.partition("::")[0]).exists() for name in files)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_toml_blocks_are_valid_configurations(page, tmp_path):
    for block in blocks(page):
        if block.language != "toml":
            continue
        file = tmp_path / "shown.toml"
        file.write_text(block.text)
        for secret in re.findall(r'_file = "([\w-]+)"', block.text):
            (tmp_path / secret).write_text("secret")
        config.load(config_file=file, environ={}, dotenv=None)


class Place:
    """A folder with the files that the docs name, and the simulator as the engine."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url

    def here(self, text: str) -> str:
        return text.replace(ENGINE, self.url).replace("$URL", self.url)

    def prepare(self, command: Command) -> None:
        (self.folder / "exporter.toml").write_text(self.here(command.toml))
        trace = [
            {"role": "system", "content": "You answer in one sentence. " * 60},
            {"role": "user", "content": "What is a prefix cache?"},
            {"role": "assistant", "content": "Memory of prompts that were computed."},
            {"role": "user", "content": "And a block?"},
        ]
        (self.folder / "trace.jsonl").write_text("\n".join(map(json.dumps, trace)))

    async def start(self, command: Command, *more: str, **variables: str):
        self.prepare(command)
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "exporter", *map(self.here, command.words[1:]), *more),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                **{name: self.here(value) for name, value in command.variables.items()},
                **variables,
            },
        )


@pytest.fixture
def place(tmp_path) -> Iterator[Place]:
    with engine_beside() as simulator:
        yield Place(tmp_path, simulator.url)


# `compare` plays many sessions against several engines: tests/cli/test_compare.py runs it.
ENDS = unique("vllm-cache-exporter", "probe", "check", "config", "launch")
STAYS = unique("vllm-cache-exporter", "run", "simulate")


@pytest.mark.parametrize("command", ENDS)
def test_a_command_ends_with_code_0(place, command, monkeypatch):
    place.prepare(command)
    monkeypatch.chdir(place.folder)
    variables = {name: place.here(value) for name, value in command.variables.items()}
    done = run_command(*map(place.here, command.words[1:]), **variables)
    assert done.code == 0, done.errors
    assert done.output or done.errors


@pytest.mark.parametrize("command", STAYS)
async def test_a_server_command_serves_until_it_is_stopped(place, command):
    if "managed" in command.toml and "--config" in command.words:
        place.prepare(command)
        config.load(config_file=place.folder / "exporter.toml", environ={}, dotenv=None)
        return  # it would start a container on a GPU
    port = free_port()
    if command.words[1] == "simulate":
        more, path = ("--port", str(port)), "/health"
    else:
        more, path = ("--listen", f"127.0.0.1:{port}"), "/-/ready"
    process = await place.start(command, *more)
    try:
        async with asyncio.timeout(PATIENCE):
            while not await asyncio.to_thread(answers, f"http://127.0.0.1:{port}{path}"):
                assert process.returncode is None, (await process.stdout.read()).decode()
                await asyncio.sleep(0.05)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE) in {0, 143}
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize("command", unique("curl"))
async def test_a_curl_command_gets_an_answer(place, command):
    process = await asyncio.create_subprocess_exec(
        *("curl", "--fail", "--silent", *map(place.here, command.words[1:])),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 0
    assert output
