"""An engine that quotes whatever it is sent, and a configuration full of canaries for it."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import bcrypt
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PASSWORD = "canaryPasswordOfAlice"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
# Each stands for one thing that must be seen nowhere. Those of prompts are long, as prompts are.
PLANTED = {
    "key in the file": "canaryKeyInTheFile",
    "key in its own file": "canaryKeyInItsOwnFile",
    "key in the environment": "canaryKeyInTheEnvironment",
    "header in the file": "canaryHeaderInTheFile",
    "header in its own file": "canaryHeaderInItsOwnFile",
    "header on the command line": "canaryHeaderOnTheCommandLine",
    "header of the receiver": "canaryHeaderOfTheReceiver",
    "token": "canaryHuggingFaceToken",
    "secret variable": "canarySecretVariable",
    "password": PASSWORD,
    "hash": HASH[-31:],
    "system prompt": "canarySystemPromptThatNobodyMaySee",
    "first prompt": "canaryFirstPromptThatNobodyMaySee",
    "second prompt": "canarySecondPromptThatNobodyMaySee",
    "recorded answer": "canaryRecordedAnswerThatNobodyMaySee",
    "tool": "canaryDescriptionOfAToolThatNobodyMaySee",
    "completion": "canaryCompletionThatNobodyMaySee",
    "password in a header": base64.b64encode(f"alice:{PASSWORD}".encode()).decode().rstrip("="),
}
KEY = PLANTED["key in the file"]
ADDED = ("X-Tenant", "X-Token", "X-Stage", "X-Session")
HEADERS = f"""\
headers = {{ X-Tenant = "{PLANTED["header in the file"]}", X-Session = "{PLANTED["header in the file"]}-{{session}}" }}
header_files = {{ X-Token = "header" }}
"""
SCENARIO = {
    "name": "trace",
    "tools": [
        {
            "type": "function",
            "function": {"name": "look", "description": PLANTED["tool"], "parameters": {}},
        }
    ],
    "messages": [
        {"role": "system", "content": PLANTED["system prompt"]},
        {"role": "user", "content": PLANTED["first prompt"]},
        {"role": "assistant", "content": PLANTED["recorded answer"]},
        {"role": "user", "content": PLANTED["second prompt"]},
    ],
}


MANAGED = f"""\
name = "managed"
mode = "managed"
api_key = "{KEY}"
[targets.container]
model = "m"
docker_host = "unix://FOLDER/no-docker.sock"
hf_token = "{PLANTED["token"]}"
secret_environment = {{ AWS_KEY = "{PLANTED["secret variable"]}" }}
"""


def seen_in(text: str) -> set[str]:
    """Which of the canaries are in the text, as they are or escaped."""
    return {name for name, canary in PLANTED.items() if canary.lower() in text.lower()}


@dataclass(frozen=True, slots=True)
class Echo:
    """How the engine answers at one path: `status` and what it quotes."""

    status: int
    content_type: str = "text/plain"
    location: str | None = None
    in_json: bool = False


# By the target's name: each is a way in which servers and proxies quote what they refuse.
ECHOES: Mapping[str, Echo] = {
    "unauthorized": Echo(401),
    "forbidden": Echo(403, in_json=True),
    "unprocessable": Echo(400, in_json=True),
    "not-found": Echo(404, in_json=True),
    "broken": Echo(500),
    "overloaded": Echo(503, in_json=True),
    "no-stream": Echo(200, "text/html"),
    "no-events": Echo(200, "text/event-stream"),
    "sent-on": Echo(307, location="http://127.0.0.1:9/?quoted="),
}


async def echo_engine(stack) -> str:
    """Start the engine, until `stack` ends; its URL. `/sound/…` works, `/NAME/…` is ECHOES[NAME]."""
    app = web.Application()
    app.router.add_route("*", "/{name}/{rest:.*}", _answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}"


async def _answer(request: web.Request) -> web.StreamResponse:
    name, rest = request.match_info["name"], request.match_info["rest"]
    key, body = request.headers.get("Authorization", ""), await request.text()
    echo = ECHOES.get(name)
    if rest == "v1/models" and (echo is None or echo.status != 401):
        return web.json_response({"data": [{"id": "echo", "max_model_len": 4096}]})
    if rest == "metrics" and echo is None:
        return web.Response(text="vllm:prefix_cache_queries_total 0.0\n")
    if echo is None:
        return await _stream(request) if rest.startswith("v1/chat") else web.Response(status=404)
    added = " ".join(
        f"{name}: {request.headers[name]}" for name in ADDED if name in request.headers
    )
    said = f"refused: {key} {added} {body}"
    if echo.in_json:
        return web.json_response(
            {"error": {"message": said, "code": echo.status}}, status=echo.status
        )
    if echo.content_type == "text/event-stream" and request.method == "POST":
        error = {"error": {"message": f"{PLANTED['completion']} {said}"}}
        said = f"{_event(PLANTED['completion'], None)}data: {json.dumps(error)}\n\ndata: {said}\n\n"
    headers = (
        {} if echo.location is None else {"Location": echo.location + (key or added).split()[-1]}
    )
    return web.Response(
        status=echo.status, text=said, content_type=echo.content_type, headers=headers
    )


async def _stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    usage = {"prompt_tokens": 40, "completion_tokens": 3, "total_tokens": 43}
    await response.write(_event(PLANTED["completion"], "stop").encode())
    await response.write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    return response


def _event(text: str, finish_reason: str | None) -> str:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    return f"data: {json.dumps({'choices': [choice]})}\n\n"


def configuration(folder: Path, engine: str) -> Path:
    """The daemon's files, with a canary wherever a secret or a conversation may stand."""
    (folder / "trace.json").write_text(json.dumps(SCENARIO), encoding="utf-8")
    (folder / "key").write_text(PLANTED["key in its own file"], encoding="utf-8")
    (folder / "web.yml").write_text(f"basic_auth_users:\n  alice: {HASH}\n", encoding="utf-8")
    (folder / "header").write_text(PLANTED["header in its own file"], encoding="utf-8")
    targets = [f'name = "sound"\nurl = "{engine}/sound"\napi_key_file = "key"\n{HEADERS}']
    targets += [f'name = "{n}"\nurl = "{engine}/{n}"\napi_key = "{KEY}"\n{HEADERS}' for n in ECHOES]
    targets += [
        f'name = "nobody"\nurl = "http://127.0.0.1:9"\napi_key = "{KEY}"\n',
        f'name = "no-host"\nurl = "http://{KEY[:6]}.invalid"\napi_key = "{KEY}"\n',
        MANAGED.replace("FOLDER", str(folder)),
    ]
    file = folder / "exporter.toml"
    file.write_text(
        'web_config_file = "web.yml"\n'
        '[probe]\nscenario = "./trace.json"\ninterval_seconds = 1\nfirst_token_timeout_seconds = 5\n'
        "isolation_interval_seconds = 1\ncontrol_ratio = 0.5\ntokens_per_hour = 0\n"
        "max_cache_turnover_per_hour = 0\n"
        "[scrape]\ninterval_seconds = 0.5\ntimeout_seconds = 0.5\n"
        + "".join(f"[[targets]]\n{each}" for each in targets),
        encoding="utf-8",
    )
    return file
