"""No output contains a secret or a conversation, also when engines fail."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from canaries import ECHOES, PASSWORD, PLANTED, configuration, echo_engine, seen_in
from commands import LoopThread, run_command
from fake_clock import FakeClock
from otlp_receiver import receiver

from exporter.metrics.history import History
from exporter.metrics.store import Metrics
from exporter.web.server import create_app

ENVIRONMENT = {"VLLM_EXPORTER_TARGETS__1__API_KEY": PLANTED["key in the environment"]}
PUSHING = {
    "VLLM_EXPORTER_WEB_PROBE_ENABLED": "true",
    "VLLM_EXPORTER_OTLP__METRICS_ENABLED": "true",
    "VLLM_EXPORTER_OTLP__TRACES_ENABLED": "true",
    "VLLM_EXPORTER_OTLP__INTERVAL_SECONDS": "1",
    "VLLM_EXPORTER_OTLP__HEADERS__X_KEY": PLANTED["header of the receiver"],
}
ALICE = "Basic " + base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
WRONG = "Basic " + base64.b64encode(f"alice:{PASSWORD}x".encode()).decode()
OF_A_TARGET = ("/", "/metrics", "/api/v1/sessions", "/api/v1/targets", "/report.png")


__all__ = ["receiver"]


def every_path(targets) -> list[str]:
    """Every page of the server, and the pages of every target."""
    app = create_app(
        metrics=Metrics(),
        history=History(),
        clock=FakeClock(),
        draw=lambda *_: b"",
    )
    paths = {resource.canonical for resource in app.router.resources()}
    plain = [re.sub(r"{[^}]*}", PLANTED["first prompt"], path) for path in paths]
    of_targets = [f"{path}?target={name}" for path in OF_A_TARGET for name in targets]
    return sorted([*plain, *of_targets, "/nothing", f"/%00/{PLANTED['token']}"])


def ask(url: str, path: str, authorization: str | None = ALICE) -> str:
    """Headers and body of the answer with any status."""
    headers = {} if authorization is None else {"Authorization": authorization}
    request = urllib.request.Request(url + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return f"{answer.headers}{answer.read().decode('utf-8', 'replace')}"
    except urllib.error.HTTPError as answer:
        return f"{answer.headers}{answer.read().decode('utf-8', 'replace')}"


def command_line(pid: int) -> str:
    """What every user sees of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text("utf-8")


def ended_everywhere(metrics: str) -> bool:
    """Whether each target had a session, and failing ones have a reason."""
    ended = {
        found[1]
        for found in re.finditer(
            r'vllm_probe_session_failures_total\{.*target="([^"]+)".*\} [1-9]', metrics
        )
    }
    return {*ECHOES, "nobody", "no-host"} <= ended and bool(
        re.search(r'vllm_probe_sessions_total\{target="sound"\} [2-9]', metrics)
    )


@pytest.fixture
async def engine():
    async with contextlib.AsyncExitStack() as stack:
        yield await echo_engine(stack)


@pytest.fixture
def engine_beside():
    """The same in a thread, for the commands of this process."""
    loop, stack = LoopThread(), contextlib.AsyncExitStack()
    yield loop.run(echo_engine(stack))
    loop.run(stack.aclose())
    loop.close()


async def test_no_output_of_the_daemon_contains_a_secret_or_a_conversation(
    engine, daemon, receiver, tmp_path
):
    file, log = configuration(tmp_path, engine), tmp_path / "log"
    receiver.status = 401  # until the pages are read: what is refused is logged
    variables = {**ENVIRONMENT, **PUSHING, "VLLM_EXPORTER_OTLP__ENDPOINT": receiver.url}
    async with daemon(log, "--config", str(file), "--log.level", "debug", **variables) as at:

        async def all_ended():
            return ended_everywhere(await asyncio.to_thread(ask, at.url, "/metrics"))

        await at.until("every target had its session", all_ended)
        pages = {}
        for path in every_path(("sound", *ECHOES, "nobody", "managed")):
            pages[path] = await asyncio.to_thread(ask, at.url, path)
        for name in ("sound", *ECHOES):
            for path in (f"/probe?target={name}", f"/probe?target={name}&debug=true"):
                pages[path] = await asyncio.to_thread(ask, at.url, path)
        await receiver.until("both signals", lambda: receiver.asked > 2)
        receiver.status = 200
        pages["a stranger's"] = await asyncio.to_thread(ask, at.url, "/metrics", None)
        pages["a guesser's"] = await asyncio.to_thread(ask, at.url, "/metrics", WRONG)
        pages["the process list"] = command_line(at.process.pid)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(at.url.rpartition(":")[2]))
        writer.write(f"GET / HTTP/1.1\r\nAuthorization: {ALICE}\0\r\n\r\n".encode())
        pages["an answer to no HTTP"] = (await reader.read()).decode()
        writer.close()
        assert await at.stop() == 0
    pages["the metrics that were pushed"] = str(receiver.metrics)
    pages["the spans that were pushed"] = str(receiver.traces)
    pages["the log"] = log.read_text("utf-8")
    events = {json.loads(line)["event"] for line in pages["the log"].splitlines()}
    assert {"session.failed", "http.not_admitted", "http.bad_request", "docker.failed"} <= events
    assert "otlp.export_failed" in events
    pushed = pages["the spans that were pushed"]
    assert "gen_ai.usage.input_tokens" in pushed
    assert "HTTP 500" in pushed
    assert "vllm_probe_session_failures_total" in pages["the metrics that were pushed"]
    assert not any("crash" in event or "unexpected" in event for event in events)
    assert "vllm_probe_on_demand" in pages["/probe?target=sound"]
    # The canary in the path is the client's own.
    found = {place: seen for place, page in pages.items() if (seen := seen_in(page))}
    assert found == {}
    assert "/api/v1/sessions?target=broken" in pages
    assert "HTTP 500" in pages["/api/v1/sessions?target=broken"]  # the reason is reported
    assert (
        "redirected to http://127.0.0.1:9, which is not followed"
        in (pages["/api/v1/sessions?target=sent-on"])
    )


ON_THE_COMMAND_LINE = f"X-Stage: {PLANTED['header on the command line']}"
COMMANDS = [
    ("config",),
    ("config", "--json"),
    *(("probe", "--target", name, "--json") for name in ("sound", "unprocessable", "sent-on")),
    ("probe", "--target", "sound", "--csv"),
    ("probe", "--target", "broken"),
    ("probe", "--target", "no-events", "--cold"),
    ("check", "--target", "sound"),
    ("check", "--target", "unauthorized", "--json"),
    *(
        (command, "--url", f"{{engine}}/{name}", "--header", ON_THE_COMMAND_LINE)
        for command, name in (
            ("probe", "broken"),
            ("check", "unprocessable"),
            ("probe", "no-events"),
        )
    ),
    ("probe", "--url", "{engine}/broken", "--header", f"{ON_THE_COMMAND_LINE} {{x}}"),
    ("probe", "--url", "{engine}/broken", "--header", f"bad name: {PLANTED['token']}"),
    ("launch", "--print"),
    ("launch",),
    ("probe", "--target", "no-such-target"),
    (
        *("config", "--set", f"targets[1].api_kye={PLANTED['token']}"),
        *("--set", f"targets[1].url=http://alice:{PASSWORD}@host"),
        *("--set", f"targets[2].url=http://host/?key={PASSWORD}"),
    ),
    ("config", "--web_config_file", "bad.yml"),
    ("run", "--web_config_file", "bad.yml"),
]


def test_no_output_of_a_command_contains_a_secret_or_a_conversation(
    engine_beside, tmp_path, monkeypatch
):
    file = configuration(tmp_path, engine_beside)
    monkeypatch.chdir(tmp_path)
    bad = f"basic_auth_users: {{alice: {PASSWORD}, bob: {{{PASSWORD}: x}}}}\n"
    (tmp_path / "bad.yml").write_text(bad, encoding="utf-8")
    results = {}
    for each in COMMANDS:
        asked = (word.replace("{engine}", engine_beside) for word in each)
        words = (*asked, "--config", str(file), "--log.level", "debug")
        done = run_command(*words, **ENVIRONMENT)
        results[each] = done.code, done.output + done.errors
    found = {each: seen for each, (_, said) in results.items() if (seen := seen_in(said))}
    assert found == {}
    assert not [each for each, (_, said) in results.items() if "Traceback" in said]
    codes = {each: code for each, (code, _) in results.items()}
    assert codes["config",] == codes["launch", "--print"] == 0
    assert codes["probe", "--target", "broken"] == codes["launch",] == 1
    assert {code for each, code in codes.items() if each in COMMANDS[17:]} == {2}
