"""Which lines of a page are read, and which pages are refused."""

from __future__ import annotations

import pytest
from engine_pages import rank, read, recorded, series

from exporter.engine.metrics import exposition
from exporter.errors import ExpositionError


def test_longer_names_comments_and_creation_times_are_not_taken():
    snapshot = read(
        "# HELP vllm:num_requests_waiting vllm:num_requests_waiting{} 99\n"
        "# TYPE vllm:num_requests_waiting gauge\n"
        + rank("vllm:num_requests_waiting", 4.0)
        + rank("vllm:num_requests_waiting_by_reason", 3.0, reason="capacity")
        + rank("vllm:num_requests_waiting_by_reason", 1.0, reason="deferred")
        + rank("vllm:prompt_tokens_created", 1.7e9)
        + rank("vllm:prompt_tokens_total", 5.0)
        + rank("vllm:prompt_tokens_total_created", 1.7e9)
        + rank("vllm:request_prompt_tokens_sum", 5.0)
        + rank("not_vllm:prompt_tokens_total", 70.0)
    )
    assert snapshot.requests_waiting == 4.0
    assert snapshot.prompt_tokens == 5.0


def test_a_line_taken_for_its_indent_alone_adds_nothing():
    snapshot = read(
        "  vllm:other_total"
        + series("", 5.0, {"engine": "7", "model_name": "other"})
        + rank("vllm:prompt_tokens_total", 5.0)
    )
    assert snapshot.model_names == ("tiny",)
    assert snapshot.ranks == 1
    assert snapshot.prompt_tokens == 5.0


def test_a_label_value_may_hold_anything():
    name = 'a b}{,="#\\\n vllm:prompt_tokens_total{engine="9"} 7 é'
    snapshot = read(series("vllm:prompt_tokens_total", 5.0, {"engine": "0", "model_name": name}))
    assert snapshot.model_names == (name,)
    assert snapshot.prompt_tokens == 5.0


@pytest.mark.parametrize(
    "line",
    [
        'vllm:prompt_tokens_total{engine="0"} 5.0 1700000000000',
        'vllm:prompt_tokens_total{engine="0",} 5',
        'vllm:prompt_tokens_total {engine="0"} 5',
        'vllm:prompt_tokens_total\t{ engine = "0" }\t5e0',
        '  vllm:prompt_tokens_total{engine="0"} 5  ',
        '\tvllm:prompt_tokens_total{engine="0"} 5\r',
        "vllm:prompt_tokens_total 5",
        '{"vllm:prompt_tokens_total",engine="0"} 5',
    ],
)
def test_a_line_may_be_written_in_any_way_that_the_format_allows(line: str):
    assert read(f"# EOF\n\n{line}\n").prompt_tokens == 5.0


def test_lines_may_end_as_on_windows():
    page = recorded("main32_after")
    assert read(page.replace(b"\n", b"\r\n")) == read(page)


# Pages that are none


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (b"<!DOCTYPE html>\n<html></html>\n", "line 1: '<!DOCTYPE html>'"),
        (b'{"detail":"Not Found"}\n', 'line 1: \'{"detail":"Not Found"}\''),
        (b'{"detail":"Not Found"}', 'line 1: \'{"detail":"Not Found"}\''),
        (b"up 1\nno metric\n", "line 2: 'no metric'"),
        (
            b"\nvllm:prompt_tokens_total{engine=0} 5\n",
            "line 2: 'vllm:prompt_tokens_total{engine=0}",
        ),
        (b'vllm:prompt_tokens_total{a="b", = "c"} 5\n', "line 1: "),
        (b"up 1\n\nvllm:prompt_tokens_total five\n", "line 3: 'vllm:prompt_tokens_total five'"),
        (b'vllm:cache_config_info{a="1\n', "line 1: 'vllm:cache_config_info{a="),
        (b"vllm:num_requests_running 1\n   vllm:prompt_tokens_total x\n", "line 2: "),
        (b"vllm:prompt_tokens_total 5\nvllm:generation_tokens_total 12", "breaks off: line 2"),
        (b'vllm:prompt_tokens_total{model_name="\xff"} 5\n', "not UTF-8: line 1"),
        (b"vllm:prompt_tokens_total 5 " + b"9" * 400 + b"\n", "line 1: "),
    ],
)
def test_a_page_that_is_not_prometheus_text_is_refused_with_its_line(page: bytes, said: str):
    with pytest.raises(ExpositionError) as refused:
        read(page)
    assert said in str(refused.value)


def test_a_long_line_is_not_shown_whole():
    with pytest.raises(ExpositionError) as refused:
        read("x" * 100_000 + "\n")
    assert len(str(refused.value)) < 250


def test_a_truncated_recording_is_refused_wherever_it_was_cut_within_a_line():
    page = recorded("main32_after")
    value_cut = page.index(b"vllm:prefix_cache_hits_total{") + len(
        'vllm:prefix_cache_hits_total{engine="0",model_name="tiny"} 63'
    )
    with pytest.raises(ExpositionError, match="breaks off"):
        exposition.parse(page[:value_cut], at=0.0, scrape_seconds=0.0)
