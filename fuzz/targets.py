"""The targets by name, each with the longest input that is tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import file_targets
import wire_targets

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Target:
    """`words` are pieces that the fuzzer inserts, because it would not find them by chance."""

    run: Callable[[bytes], None]
    longest: int
    words: tuple[str, ...] = ()


TARGETS = {
    "metrics_page": Target(
        wire_targets.metrics_page,
        8192,
        (
            "vllm:prompt_tokens_total",
            "vllm:prefix_cache_queries_total",
            "vllm:prefix_cache_hits_total",
            "vllm:gpu_prefix_cache_hits_total",
            "vllm:kv_cache_usage_perc",
            "vllm:num_requests_running",
            "vllm:cache_config_info",
            "process_start_time_seconds",
            'engine="0"',
            'model_name="m"',
            "NaN",
            "+Inf",
            "# TYPE ",
            "# HELP ",
            "# EOF",
            "{",
            "} 1\n",
            '\\"',
            "\\\\",
        ),
    ),
    "stream": Target(
        wire_targets.stream,
        4096,
        (
            "data: ",
            "data:",
            "\r\n\r\n",
            "\n\n",
            "[DONE]",
            '{"choices":[{"delta":{"content":"a"}}]}',
            '"usage":{"prompt_tokens":1,"completion_tokens":1}',
            '"prompt_tokens_details":{"cached_tokens":1}',
            '"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]',
            '"token_ids":[1]',
            '"logprobs":{"content":[{"token":"token_id:1"}]}',
            '"error":{"message":"m"}',
            '"finish_reason":"stop"',
            '{"type":"content_block_start","index":0,"content_block":{"type":"tool_use"}}',
            '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}',
            '{"type":"message_delta","delta":{"stop_reason":null}}',
            '"usage":{"input_tokens":1,"output_tokens":1,"cache_read_input_tokens":1}',
            '{"type":"message_stop"}',
            '{"type":"response.output_text.delta","delta":"a"}',
            '{"type":"response.function_call_arguments.delta","output_index":0,"delta":"a"}',
            '{"type":"response.completed","response":{"status":"completed"}}',
            "\ufeff",
        ),
    ),
    "refused": Target(
        wire_targets.refused,
        2048,
        ('{"error":{"message":"', '"param":"model"', '"object":"error"', "maximum context length"),
    ),
    "docker": Target(
        wire_targets.docker,
        4096,
        (
            '"Type":"container"',
            '"Actor":{"ID":"a","Attributes":{"exitCode":"1"}}',
            '"Action":"die"',
            '"timeNano":1',
            '"State":{"Status":"running"',
            "0001-01-01T00:00:00Z",
            "2026-11-24T20:21:57.123456789Z ",
            "\x01\x00\x00\x00\x00\x00\x00\x20",
            "\x03\x00\x00\x00\x00\x00\x00\x20",
            "Loading weights took 1 s\n",
            "Application startup complete",
        ),
    ),
    "scenario": Target(
        file_targets.scenario,
        4096,
        (
            '{"role":"user","content":"a"}',
            '{"role":"assistant","content":"b"}',
            '"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]',
            '{"role":"tool","tool_call_id":"c","content":"r"}',
            '"messages":[',
            '"replay":"recorded"',
            '"replay":"own"',
            '"tools":[',
            '"name":',
            '[{"type":"text","text":"t"}]',
            "\\ud800",
        ),
    ),
    "toml": Target(
        file_targets.toml,
        2048,
        (
            "[[targets]]\n",
            "[targets.container]\n",
            "[probe]\n",
            "[scrape]\n",
            "[discovery]\n",
            'mode = "managed"\n',
            'mode = "attached"\n',
            'url = "http://e:8000"\n',
            "interval_seconds = ",
            "max_tokens = ",
            "environment = {",
            'args = ["--',
            "inf",
            "nan",
            "0x",
            '"""',
        ),
    ),
    "environment": Target(
        file_targets.environment,
        2048,
        (
            "TARGETS__0__URL=http://e",
            "TARGETS__1__NAME=",
            "TARGETS=[{",
            "PROBE__INTERVAL_SECONDS=",
            "LISTEN=",
            "LOG__LEVEL=",
            ":VLLM_HOST=",
            ":PORT=",
            ":MODEL_ID=",
            ":MAX_MODEL_LEN=",
            "TARGETS__0__CONTAINER__MODEL=",
            "TARGETS__0__MODE=managed",
            "PROBE__RETENTION_GAPS_SECONDS=[1]",
        ),
    ),
    "web_config": Target(
        file_targets.web_config,
        2048,
        (
            "tls_server_config:\n",
            "http_server_config:\n  headers:\n",
            "basic_auth_users:\n",
            "  cert_file: x\n",
            "!!int ",
            "!!timestamp ",
            "!!bool ",
            "!!float ",
            "!!binary ",
            "!!set ",
            "!!omap ",
            "&a ",
            "*a",
            "<<: ",
            "? ",
            "- ",
            "0o",
            "1:1",
            "...\n---\n",
        ),
    ),
}
