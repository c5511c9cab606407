"""Almost valid inputs, for Hypothesis: by name of the target, as bytes.

Random bytes rarely get past a parser's first rules; these reach the later rules.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from exporter.config.schema import keys
from exporter.engine.metrics import names

TEXT = st.text(max_size=12)
_TIDY = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=12)
NUMBERS = st.one_of(
    st.integers(-2, 300), st.sampled_from([10**9, 2**63, 10**400]), st.floats(), st.booleans()
)
SCALARS: st.SearchStrategy[Any] = st.one_of(st.none(), NUMBERS, TEXT)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TIDY, inner, max_size=3)),
    max_leaves=5,
)


def objects(**known: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of the known keys, most of them of the right kind."""
    wrong = {key: st.one_of(value, value, value, JSON) for key, value in known.items()}
    return st.fixed_dictionaries({}, optional=wrong)


def written(value: Any) -> bytes:
    return json.dumps(value).encode()


# Pages of metrics

_NAMES = st.sampled_from([*sorted(names.WANTED_NAMES), "vllm:other_total", "http_requests_total"])
_LABELS = st.dictionaries(
    st.sampled_from(["engine", "model_name", "block_size", "num_gpu_blocks"]),
    st.one_of(st.sampled_from(["0", "1", "16", "m", "None"]), _TIDY),
    max_size=3,
)
_VALUES = st.one_of(
    st.sampled_from(["1", "2.5", "1e3", "NaN", "+Inf", "-1", "0x1", "", "9" * 400]),
    st.floats().map(repr),
)


@st.composite
def _line(draw: st.DrawFn) -> str:
    name, labels = draw(_NAMES), draw(_LABELS)
    pairs = ",".join(f"{key}={json.dumps(value)}" for key, value in labels.items())
    form = draw(
        st.sampled_from(["{n}{{{l}}} {v}", "{n} {v}", '{{"{n}",{l}}} {v}', " {n}{{{l}}} {v}"])
    )
    stamp = draw(st.sampled_from(["", "", " 1700000000", " x"]))
    return form.format(n=name, l=pairs, v=draw(_VALUES)) + stamp


_COMMENTS = st.sampled_from(["", "# HELP vllm:x y", "# TYPE vllm:prompt_tokens_total counter", "#"])
_PAGES = st.lists(st.one_of(_line(), _line(), _COMMENTS), max_size=8).flatmap(
    lambda lines: st.sampled_from(["\n", "\n", "\r\n"]).map(
        lambda end: "".join(line + end for line in lines).encode("utf-8", "surrogatepass")
    )
)

# Streams

_COUNT = st.integers(0, 50)
_DELTAS = objects(
    role=st.just("assistant"),
    content=TEXT,
    reasoning=TEXT,
    tool_calls=st.lists(
        objects(index=_COUNT, id=TEXT, function=objects(name=TEXT, arguments=TEXT)), max_size=2
    ),
)
_CHUNKS = objects(
    choices=st.lists(
        objects(
            delta=_DELTAS,
            finish_reason=st.sampled_from(["stop", "length", "abort", None]),
            token_ids=st.lists(_COUNT, max_size=3),
            logprobs=objects(content=st.lists(objects(token=st.just("token_id:5")), max_size=2)),
        ),
        max_size=2,
    ),
    usage=objects(
        prompt_tokens=_COUNT,
        completion_tokens=_COUNT,
        prompt_tokens_details=objects(cached_tokens=_COUNT),
    ),
    prompt_token_ids=st.lists(_COUNT, max_size=3),
    error=objects(message=TEXT, code=_COUNT),
    object=st.sampled_from(["chat.completion.chunk", "error"]),
)
_EVENTS = st.one_of(
    _CHUNKS.map(lambda chunk: b"data: " + written(chunk)),
    st.sampled_from([b"data: [DONE]", b": comment", b"event: x", b"data", b"data:  {", b""]),
)


@st.composite
def _streams(draw: st.DrawFn) -> bytes:
    end = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    mark = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf"]))
    body = b"".join(event + end + end for event in draw(st.lists(_EVENTS, max_size=6)))
    return bytes([draw(st.integers(0, 255))]) + mark + body


_REFUSALS = st.tuples(
    st.integers(0, 699),
    objects(
        error=st.one_of(objects(message=TEXT, param=st.just("model"), code=_COUNT), TEXT),
        object=st.just("error"),
        message=TEXT,
    ),
).map(lambda pair: pair[0].to_bytes(2) + written(pair[1]))

# Docker

_STAMP = st.sampled_from(["2026-11-24T20:21:57.123456789Z", "0001-01-01T00:00:00Z", "yesterday"])
_INSPECT = objects(
    Id=TEXT,
    Name=TEXT,
    Image=TEXT,
    RestartCount=_COUNT,
    State=objects(
        Status=st.sampled_from(["running", "exited", "created"]),
        ExitCode=_COUNT,
        OOMKilled=st.booleans(),
        Error=TEXT,
        StartedAt=_STAMP,
        FinishedAt=_STAMP,
    ),
    Config=objects(Image=TEXT, Labels=st.dictionaries(TEXT, TEXT, max_size=2)),
    NetworkSettings=objects(
        Ports=st.dictionaries(
            st.sampled_from(["8000/tcp", "53/udp", "x"]),
            st.lists(objects(HostIp=st.just("::1"), HostPort=st.just("1")), max_size=2),
        )
    ),
)
_DOCKER_EVENTS = objects(
    Type=st.just("container"),
    Actor=objects(ID=TEXT, Attributes=objects(name=TEXT, exitCode=st.sampled_from(["0", "x"]))),
    Action=st.sampled_from(["die", "start"]),
    timeNano=st.integers(),
)
_LOG_LINES = st.tuples(_STAMP, TEXT).map(lambda pair: " ".join(pair).encode("utf-8", "replace"))
_DOCKER = st.one_of(
    _INSPECT.map(written),
    st.lists(_DOCKER_EVENTS.map(written), max_size=4).map(b"\n".join),
    st.lists(_LOG_LINES, max_size=4).map(b"\n".join),
    st.lists(
        st.tuples(st.integers(0, 4), _LOG_LINES, st.sampled_from([b"\n", b""])), max_size=4
    ).map(
        lambda frames: b"".join(
            bytes([output, 0, 0, 0]) + (len(line) + len(end)).to_bytes(4) + line + end
            for output, line, end in frames
        )
    ),
)

# Scenarios

_CALLS = objects(
    id=st.sampled_from(["c1", "c2"]),
    type=st.just("function"),
    function=objects(name=TEXT, arguments=st.sampled_from(["{}", "{", "[]"])),
)
_MESSAGES = objects(
    role=st.sampled_from(["system", "user", "assistant", "tool", "developer"]),
    content=st.one_of(TEXT, st.lists(objects(type=st.just("text"), text=TEXT), max_size=2)),
    tool_calls=st.lists(_CALLS, max_size=2),
    tool_call_id=st.sampled_from(["c1", "c2"]),
    refusal=st.none(),
)
_TALKS = st.lists(
    st.one_of(
        _MESSAGES,
        st.just({"role": "user", "content": "q"}),
        st.just({"role": "assistant", "content": "a"}),
        st.just({"role": "tool", "tool_call_id": "c1", "content": "r"}),
    ),
    max_size=6,
)
_HEADS = objects(
    name=st.sampled_from(["a", "b.c"]),
    replay=st.sampled_from(["recorded", "own"]),
    tools=st.lists(
        objects(type=st.just("function"), function=objects(name=TEXT, parameters=st.just({}))),
        max_size=2,
    ),
)
_SCENARIOS = st.one_of(
    _TALKS.map(written),
    st.tuples(_HEADS, _TALKS).map(lambda pair: written({**pair[0], "messages": pair[1]})),
    st.tuples(_HEADS, _TALKS).map(
        lambda pair: b"\n".join(written(each) for each in (pair[0], *pair[1]))
    ),
)

# Configuration

_LEAVES = st.sampled_from([leaf.key for leaf in keys.leaves()])
_WORDS = st.sampled_from(
    ["managed", "attached", "http://e:8000", "u:p@h", "5", "0", "1.5", "true", "all", "[1]", "{}"]
)
_SETTINGS = st.dictionaries(
    _LEAVES, st.one_of(_WORDS, _WORDS, NUMBERS, TEXT, st.lists(NUMBERS, max_size=2)), max_size=6
)


def _toml(given: dict[keys.Key, Any]) -> bytes:
    """A line for each; those of a target in one table at the end."""
    own, targets = [], ["[[targets]]"]
    for key, value in given.items():
        if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
            text = repr(value)
        else:
            text = json.dumps(value)
        if "targets" in key and len(key) > 1:
            targets.append(f"{'.'.join(map(str, key[2:]))} = {text}")
        else:
            own.append(f"{'.'.join(str(part) for part in key)} = {text}")
    return "\n".join([*own, *targets]).encode("utf-8", "surrogatepass")


def _variables(given: dict[keys.Key, Any]) -> bytes:
    lines = (
        f"{'__'.join(map(str, key)).upper()}="
        f"{value if isinstance(value, str) else json.dumps(value)}"
        for key, value in given.items()
    )
    return "\n".join(lines).encode("utf-8", "surrogatepass")


_WEB = objects(
    tls_server_config=objects(
        cert_file=TEXT,
        key_file=TEXT,
        client_auth_type=st.just("RequireAndVerifyClientCert"),
        client_ca_file=TEXT,
        min_version=st.sampled_from(["TLS12", "TLS13"]),
        cipher_suites=st.lists(st.just("TLS_AES_128_GCM_SHA256"), max_size=2),
    ),
    http_server_config=objects(
        http2=st.booleans(),
        headers=st.dictionaries(
            st.sampled_from(["X-Frame-Options", "Content-Security-Policy"]),
            st.one_of(st.just("deny"), TEXT),
        ),
    ),
    rate_limit=JSON,
)

STRATEGIES: dict[str, st.SearchStrategy[bytes]] = {
    "metrics_page": _PAGES,
    "stream": _streams(),
    "refused": _REFUSALS,
    "docker": _DOCKER,
    "scenario": _SCENARIOS,
    "toml": st.tuples(st.sampled_from([b"", b"+"]), _SETTINGS.map(_toml)).map(b"".join),
    "environment": _SETTINGS.map(_variables),
    # JSON is YAML, but for a table in braces no user can stand before it.
    "web_config": st.one_of(
        _WEB.map(written),
        st.tuples(st.sampled_from([b"+", b"-"]), _WEB).map(
            lambda pair: (
                pair[0]
                + b"".join(
                    written(key) + b": " + written(each) + b"\n" for key, each in pair[1].items()
                )
            )
        ),
    ),
}
