"""The faults of an engine that a daemon must stand, and what it must say of each."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from faulty_engine import (
    DONE,
    LAST,
    Fault,
    answer,
    drips,
    event,
    hang,
    page,
    repeats,
    reset,
    says,
    streams,
    token,
    used,
    vllm_page,
)

GIGABYTE = 1 << 30


def bomb(megabytes: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(1 << 20)
    return b"".join(packer.compress(zeros) for _ in range(megabytes)) + packer.flush()


@dataclass(frozen=True, slots=True)
class Row:
    """One fault. `session` and `scrape` are the reasons that must be exported, None where the
    session or the reading must succeed all the same; `absent` are families that must not be there.
    """

    name: str
    fault: Fault
    session: str | None = None
    scrape: str | None = None
    notice: str | None = None
    absent: tuple[str, ...] = ()


_UNKNOWN = (
    "vllm_engine_requests_running",
    "vllm_engine_requests_waiting",
    "vllm_engine_kv_cache_usage_ratio",
    "vllm_engine_prefix_cache_queried_tokens_total",
    "vllm_engine_prefix_cache_hit_tokens_total",
    "vllm_engine_prefix_cache_hit_ratio",
)
_HTTP_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: "
_HALF_PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + vllm_page("1")[:100]


_UNTOLD = (
    "vllm_probe_turn_hit_ratio",
    "vllm_probe_turn_prompt_tokens",
    "vllm_probe_cached_tokens_total",
)


_MORE_CACHED = (
    '{"prompt_tokens": 7, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}}'
)


def _usage(usage: str) -> Fault:
    return Fault(chat=streams(token(), LAST, used(usage), DONE))


def side_by_side(elsewhere: str) -> list[Row]:
    """Faults that cost little: each on a target of its own, all at once. `elsewhere` is a URL that
    a redirect leads to.
    """
    moved = answer("307 Temporary Redirect", f"Location: {elsewhere}/led-away")
    busy = answer("429 Too Many Requests", "Retry-After: 3600", body=b'{"error": "slow down"}')
    no_key = answer("401 Unauthorized", body=b'{"error": "Unauthorized"}')
    failed = event(error={"message": "EngineCore died", "code": 500})
    return [
        Row("refuses connections", Fault(refuse=True), "connection_refused", "connection_refused"),
        Row("resets connections", Fault(reset, reset, reset), "stream_cut", "stream_cut"),
        Row("hangs before headers", Fault(hang, hang), "first_token_timeout", "timeout"),
        Row(
            "hangs mid-stream, mid-page",
            Fault(streams(token(), token(), then=hang), says(_HALF_PAGE, then=hang)),
            "stalled",
            "timeout",
        ),
        Row(
            "drips a byte a second",
            Fault(streams(then=drips(token() * 9)), says(_HALF_PAGE, then=drips(b"1" * 800))),
            "first_token_timeout",
            "timeout",
        ),
        Row(
            "bad UTF-8",
            Fault(
                streams(b'data: {"choices": [{"delta": {"content": "\xff\xfe"}}]}\n\n'),
                page(vllm_page("1").replace(b'"m"', b'"\xff"')),
            ),
            "protocol",
            "not_prometheus",
        ),
        Row("bad JSON", Fault(streams(b'data: {"choices": [\n\n')), "protocol"),
        Row("JSON nested 100,000 deep", Fault(streams(b"data: " + b"[" * 100_000 + b"\n\n")),
            "protocol"),
        Row("SSE comments without end", Fault(streams(then=repeats(b": ping\n\n", pause=0.01))),
            "first_token_timeout"),
        Row(
            "wrong content type",
            Fault(
                answer("200 OK", "Content-Type: application/json", body=b"{}"),
                answer("200 OK", "Content-Type: text/html", body=b"<html><p>Welcome</p></html>\n"),
            ),
            "protocol",
            "not_prometheus",
        ),
        Row("3xx to another host", Fault(moved, moved), "protocol", "protocol"),
        Row("401", Fault(no_key, no_key), "unauthorized", "unauthorized"),
        Row("429 with Retry-After", Fault(busy, busy), "overloaded", "overloaded"),
        Row("500 inside a stream, 500", Fault(streams(token(), failed, DONE),
            answer("500 Internal Server Error")), "stream_error", "server_error"),
        Row(
            "usage missing",
            Fault(streams(token(), LAST, DONE)),
            notice="usage_missing",
            absent=_UNTOLD,
        ),
        *(
            Row(f"usage: {odd}", _usage(usage), notice="usage_unusable", absent=_UNTOLD)
            for odd, usage in (
                ("negative", '{"prompt_tokens": -7, "completion_tokens": 1}'),
                ("more cached than sent", _MORE_CACHED),
                ("1e999 tokens", '{"prompt_tokens": 1e999, "completion_tokens": 1}'),
                ("10²⁴ tokens", '{"prompt_tokens": 1%s}' % ("0" * 24)),
                ("empty", "{}"),
            )
        ),
        Row("/metrics: NaN", Fault(metrics=page(vllm_page("NaN"))), absent=_UNKNOWN),
        Row("/metrics: Inf", Fault(metrics=page(vllm_page("+Inf"))), absent=_UNKNOWN),
        Row("/metrics: negative", Fault(metrics=page(vllm_page("-3"))), absent=_UNKNOWN),
        Row("/metrics: shorter than it says", Fault(metrics=page(vllm_page("1"), length=9999)),
            scrape="stream_cut"),
        Row("/metrics: breaks off in a line", Fault(metrics=page(vllm_page("1")[:-9])),
            scrape="not_prometheus"),
        Row("/metrics: not vLLM's", Fault(metrics=page(b"up 1\n")), scrape="no_vllm_metrics"),
    ]  # fmt: skip


def one_by_one() -> list[Row]:
    """Faults that are heavy: one after the other, so that each is measured alone."""
    ten = 10 * GIGABYTE
    others = b"".join(b"x%d 1\n" % number for number in range(200_000))
    plain = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"
    return [
        Row(
            "sends 10 GB of tokens, 10 GB of page",
            Fault(
                streams(then=repeats(token() * 1000, most_bytes=ten)),
                says(plain, then=repeats(others, most_bytes=ten)),
            ),
            "protocol",
            "protocol",
        ),
        Row(
            "sends 10 GB in one line",
            Fault(
                streams(b"data: ", then=repeats(b"x" * 65536, most_bytes=ten)),
                says(plain, then=repeats(b"x" * 65536, most_bytes=ten)),
            ),
            "protocol",
            "protocol",
        ),
        Row("SSE comments without end, at full speed",
            Fault(streams(then=repeats(b": ping\n\n" * 8192))), "protocol"),
        Row("headers without end", Fault(
            says(b"HTTP/1.1 200 OK\r\n", then=repeats(b"X-Filler: 0123456789\r\n" * 2048)),
            says(b"HTTP/1.1 200 OK\r\n", then=repeats(b"X-Filler: 0123456789\r\n" * 2048))),
            "protocol", "protocol"),
        Row("/metrics: 200,000 lines", Fault(metrics=page(others + vllm_page("0")))),
        Row("/metrics: 200,000 lines of wanted names",
            Fault(metrics=page(vllm_page("1", engines=40_000))), scrape="protocol"),
        Row("/metrics: 20,000 lines of wanted names",
            Fault(metrics=page(vllm_page("1", engines=4000))), scrape="not_prometheus"),
        Row(
            "gzip bomb of 1 GB",
            Fault(
                streams(bomb(1024), headers="Content-Encoding: gzip\r\n"),
                page(bomb(1024), "Content-Encoding: gzip"),
            ),
            "protocol",
            "protocol",
        ),
    ]  # fmt: skip
