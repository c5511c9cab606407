"""A page of vLLM's /metrics becomes one snapshot, and what is unknown stays unknown."""

from __future__ import annotations

import pytest
from engine_pages import rank, read, recorded, series, vllm_page

from exporter.model.engine import CacheConfig

RECORDED = [
    "main32_before",
    "main32_after",
    "nodetails128_after",
    "noprefix_after",
    "devevict_after",
    "kvev",
    "small_before",
    "first_model_after",
]

ONE_RANK_FIELDS = {
    "process_start_time": "process_start_time_seconds",
    "queried_tokens": "vllm:prefix_cache_queries_total",
    "hit_tokens": "vllm:prefix_cache_hits_total",
    "cached_prompt_tokens": "vllm:prompt_tokens_cached_total",
    "external_queried_tokens": "vllm:external_prefix_cache_queries_total",
    "external_hit_tokens": "vllm:external_prefix_cache_hits_total",
    "prompt_tokens": "vllm:prompt_tokens_total",
    "generation_tokens": "vllm:generation_tokens_total",
    "preemptions": "vllm:num_preemptions_total",
    "iteration_tokens": "vllm:iteration_tokens_total_sum",
    "kv_cache_usage_ratio": "vllm:kv_cache_usage_perc",
    "requests_running": "vllm:num_requests_running",
    "requests_waiting": "vllm:num_requests_waiting",
}


CONFIG_OF_32 = series("vllm:cache_config_info", 1.0, {"engine": "0", "block_size": "32"})


def line_of(page: bytes, name: str) -> float:
    """The value on the one line of this name, read without any parser."""
    (line,) = [
        line for line in page.decode().splitlines() if line.startswith((f"{name}{{", f"{name} "))
    ]
    return float(line.rsplit(" ", 1)[1])


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_page_gives_the_values_on_its_lines(name: str):
    page = recorded(name)
    snapshot = read(page)
    got = {field: getattr(snapshot, field) for field in ONE_RANK_FIELDS}
    assert got == {field: line_of(page, family) for field, family in ONE_RANK_FIELDS.items()}
    assert snapshot.ranks == 1
    assert snapshot.model_names == ("tiny",)
    assert snapshot.hit_rate_gauge is None
    assert (snapshot.at, snapshot.scrape_seconds) == (10.0, 0.25)


def test_the_recorded_session_counts_what_was_recorded():
    snapshot = read(recorded("main32_after"))
    assert (snapshot.queried_tokens, snapshot.hit_tokens) == (7819.0, 6368.0)
    assert (snapshot.prompt_tokens, snapshot.generation_tokens) == (7819.0, 512.0)
    assert snapshot.process_start_time == 1_795_472_857.86


@pytest.mark.parametrize(
    ("name", "unit", "caching", "blocks", "capacity"),
    [
        ("main32_after", 32, True, 16384, 524288),
        ("nodetails128_after", 128, True, 4096, 524288),
        ("noprefix_after", 32, False, 16384, 524288),
        ("devevict_after", 32, True, 64, 2048),
    ],
)
def test_a_recorded_page_shows_the_cache(name, unit, caching, blocks, capacity):
    cache = read(recorded(name)).cache
    assert cache is not None
    assert cache.match_unit_tokens == cache.block_size == unit
    assert cache.prefix_caching is caching
    assert cache.num_blocks == blocks
    assert cache.capacity_tokens == capacity
    assert cache.labels["prefix_caching_hash_algo"] == "sha256"
    assert "engine" not in cache.labels


def test_a_server_without_stats_is_a_page_without_ranks():
    snapshot = read(recorded("nostats"))
    assert snapshot.ranks == 0
    assert snapshot.process_start_time == 1_795_473_560.38
    assert snapshot.queried_tokens is None
    assert snapshot.cache is None


def test_an_empty_page_is_a_page_without_ranks():
    assert read(b"").ranks == 0


# Other versions


OLD_NAMES = (
    rank("vllm:gpu_prefix_cache_queries_total", 258.0)
    + rank("vllm:gpu_prefix_cache_hits_total", 129.0)
    + rank("vllm:gpu_cache_usage_perc", 0.25)
)
IN_BLOCKS = "".join(
    f"# HELP vllm:gpu_prefix_cache_{name}_total GPU prefix cache {name}, in terms of number of "
    f"{what} blocks.\n# TYPE vllm:gpu_prefix_cache_{name}_total counter\n"
    for name, what in [("queries", "queried"), ("hits", "cached")]
)
IN_TOKENS = IN_BLOCKS.replace("blocks", "tokens")


def test_the_recorded_page_of_0_8_5_v1_counts_blocks_which_become_tokens():
    """A prompt of 2071 tokens twice, in blocks of 16: 129 whole ones each time."""
    snapshot = read(recorded("0_8_5_v1"))
    assert (snapshot.queried_tokens, snapshot.hit_tokens) == (258 * 16, 129 * 16)
    assert snapshot.lookup_step_tokens == 16


@pytest.mark.parametrize(
    ("page", "version", "counted"),
    [
        (IN_BLOCKS + OLD_NAMES + CONFIG_OF_32, None, (258 * 32, 129 * 32)),
        (IN_BLOCKS + OLD_NAMES + CONFIG_OF_32, "0.9.1", (258 * 32, 129 * 32)),
        (IN_BLOCKS + OLD_NAMES, "0.8.5", (None, None)),
        (IN_TOKENS + OLD_NAMES + CONFIG_OF_32, None, (258, 129)),
        (IN_TOKENS + OLD_NAMES, "0.8.5", (258, 129)),
        (OLD_NAMES + CONFIG_OF_32, "0.8.5", (258 * 32, 129 * 32)),
        (OLD_NAMES + CONFIG_OF_32, "0.8.5.post1", (258 * 32, 129 * 32)),
        (OLD_NAMES, "0.8.5", (None, None)),
        (OLD_NAMES + CONFIG_OF_32, "0.9.1", (258, 129)),
        (OLD_NAMES + CONFIG_OF_32, "0.10.2", (258, 129)),
        (OLD_NAMES + CONFIG_OF_32, None, (None, None)),
        (OLD_NAMES + CONFIG_OF_32, "unknown", (None, None)),
    ],
)
def test_the_unit_of_the_old_names_is_by_their_help_or_the_version_else_unknown(
    page, version, counted
):
    snapshot = read(page, version=version)
    assert (snapshot.queried_tokens, snapshot.hit_tokens) == counted
    assert snapshot.kv_cache_usage_ratio == 0.25
    assert snapshot.cached_prompt_tokens is None


def test_the_v0_engine_of_0_8_5_has_a_rate_and_no_counters():
    labels = {"model_name": "tiny"}
    snapshot = read(
        series("vllm:gpu_prefix_cache_hit_rate", 0.75, labels)
        + series("vllm:cpu_prefix_cache_hit_rate", 0.5, labels)
        + series("vllm:prompt_tokens_total", 10.0, labels)
    )
    assert snapshot.hit_rate_gauge == 0.75
    assert snapshot.queried_tokens is None
    assert snapshot.prompt_tokens == 10.0
    assert snapshot.ranks == 1


def test_a_v0_rate_of_minus_one_means_unknown():
    page = series("vllm:gpu_prefix_cache_hit_rate", -1.0, {"model_name": "tiny"})
    assert read(page).hit_rate_gauge is None
    assert read(page).ranks == 1


def test_rates_of_two_models_cannot_be_combined():
    page = series("vllm:gpu_prefix_cache_hit_rate", 0.2, {"model_name": "a"})
    page += series("vllm:gpu_prefix_cache_hit_rate", 0.3, {"model_name": "b"})
    assert read(page).hit_rate_gauge is None


@pytest.mark.parametrize("old_first", [True, False])
def test_old_and_new_names_on_one_page_are_not_added_up(old_first: bool):
    """0.9.2 and 0.10.2 show both; the values differ here to tell which was read."""
    new = (
        rank("vllm:prefix_cache_queries_total", 200.0)
        + rank("vllm:prefix_cache_hits_total", 150.0)
        + rank("vllm:kv_cache_usage_perc", 0.5)
    )
    old = (
        rank("vllm:gpu_prefix_cache_queries_total", 100.0)
        + rank("vllm:gpu_prefix_cache_hits_total", 60.0)
        + rank("vllm:gpu_cache_usage_perc", 0.25)
    )
    snapshot = read(old + new if old_first else new + old)
    assert (snapshot.queried_tokens, snapshot.hit_tokens) == (200.0, 150.0)
    assert snapshot.kv_cache_usage_ratio == 0.5


def test_vllm_0_11_2_has_the_new_names_and_no_cached_prompt_tokens():
    snapshot = read(
        rank("vllm:prefix_cache_queries_total", 200.0)
        + rank("vllm:prefix_cache_hits_total", 150.0)
        + rank("vllm:external_prefix_cache_queries_total", 7.0)
        + rank("vllm:external_prefix_cache_hits_total", 3.0)
    )
    assert (snapshot.queried_tokens, snapshot.hit_tokens) == (200.0, 150.0)
    assert snapshot.cached_prompt_tokens is None


def test_a_new_name_that_says_nan_is_not_replaced_by_the_old_one():
    page = rank("vllm:prefix_cache_hits_total", "NaN") + rank(
        "vllm:gpu_prefix_cache_hits_total", 60.0
    )
    assert read(page).hit_tokens is None


# Ranks


def eight(name: str, values: list[object]) -> str:
    return "".join(rank(name, value, engine) for engine, value in enumerate(values))


def test_counters_of_all_ranks_are_added_up_and_usage_is_their_mean():
    snapshot = read(
        eight("vllm:prefix_cache_queries_total", [1, 2, 3, 4, 5, 6, 7, 8])
        + eight("vllm:num_requests_running", [1, 0, 0, 0, 0, 0, 0, 2])
        + eight("vllm:kv_cache_usage_perc", [0.5, 0, 0, 0, 0, 0, 0, 0.5])
    )
    assert snapshot.ranks == 8
    assert snapshot.queried_tokens == 36.0
    assert snapshot.requests_running == 3.0
    assert snapshot.kv_cache_usage_ratio == 0.125


def test_eight_copies_of_a_recorded_rank_count_eight_times():
    text = recorded("main32_after").decode()
    lines = [
        copy
        for line in text.splitlines(keepends=True)
        for copy in (
            [line.replace('engine="0"', f'engine="{n}"') for n in range(8)]
            if 'engine="0"' in line
            else [line]
        )
    ]
    snapshot = read("".join(lines))
    assert snapshot.ranks == 8
    assert snapshot.queried_tokens == 8 * 7819.0
    assert snapshot.hit_tokens == 8 * 6368.0
    assert snapshot.cache == read(text).cache


def test_series_of_several_models_are_added_up():
    snapshot = read(
        rank("vllm:prompt_tokens_total", 5.0)
        + series("vllm:prompt_tokens_total", 7.0, {"engine": "0", "model_name": "other"})
    )
    assert snapshot.prompt_tokens == 12.0
    assert snapshot.model_names == ("other", "tiny")
    assert snapshot.ranks == 1


@pytest.mark.parametrize("bad", ["NaN", "+Inf", "-Inf", "1e999", "-1", "9" * 400])
def test_one_rank_without_a_usable_value_makes_the_sum_unknown(bad: str):
    snapshot = read(
        eight("vllm:prefix_cache_queries_total", [1, 2, bad, 4, 5, 6, 7, 8])
        + eight("vllm:prefix_cache_hits_total", [1] * 8)
    )
    assert snapshot.queried_tokens is None
    assert snapshot.hit_tokens == 8.0


def test_a_family_that_lacks_a_rank_is_unknown():
    snapshot = read(
        eight("vllm:prefix_cache_queries_total", [1] * 8)
        + eight("vllm:prefix_cache_hits_total", [1] * 7)
    )
    assert snapshot.queried_tokens == 8.0
    assert snapshot.hit_tokens is None


def test_the_same_series_twice_is_unknown():
    assert read(rank("vllm:prompt_tokens_total", 5.0) * 2).prompt_tokens is None


def test_a_usage_above_one_is_no_ratio():
    assert read(rank("vllm:kv_cache_usage_perc", 1.5)).kv_cache_usage_ratio is None


# The cache's configuration


def config(engine: int = 0, **labels: str) -> str:
    return series("vllm:cache_config_info", 1.0, {**labels, "engine": str(engine)})


@pytest.mark.parametrize(
    ("ranks", "labels", "capacity"),
    [
        (1, {"num_gpu_blocks": "16384", "block_size": "32"}, 524288),
        (1, {"num_gpu_blocks": "100", "block_size": "32", "kv_cache_size_tokens": "999"}, 999),
        # vLLM says the sum of all ranks' blocks on the line of each.
        (4, {"num_gpu_blocks": "400", "block_size": "16"}, 1600),
        (4, {"num_gpu_blocks": "400", "block_size": "16", "kv_cache_size_tokens": "999"}, 999),
        (1, {"num_gpu_blocks": "100", "block_size": "32", "kv_cache_size_tokens": "None"}, None),
        (1, {"num_gpu_blocks": "None", "block_size": "32"}, None),
        (1, {"num_gpu_blocks": "100"}, None),
    ],
)
def test_without_its_label_the_capacity_is_that_of_one_ranks_blocks(ranks, labels, capacity):
    cache = read("".join(config(engine, **labels) for engine in range(ranks))).cache
    assert cache is not None
    assert cache.capacity_tokens == capacity


def test_a_sole_line_of_configuration_beside_several_ranks_is_about_all_of_their_blocks():
    page = eight("vllm:num_requests_running", [0] * 8)
    page += config(0, num_gpu_blocks="800", block_size="16")
    cache = read(page).cache
    assert cache is not None
    assert cache.capacity_tokens == 1600


@pytest.mark.parametrize(
    ("labels", "unit"),
    [
        ({"cache_hit_alignment_tokens": "8320", "prefix_match_unit": "32"}, 8320),
        ({"cache_hit_alignment_tokens": "None", "prefix_match_unit": "784"}, 784),
        ({"prefix_match_unit": "None", "effective_attention_block_size": "528"}, 528),
        ({"effective_attention_block_size": "None"}, 16),
        ({}, 16),
        ({"cache_hit_alignment_tokens": "0"}, 16),
    ],
)
def test_the_match_unit_is_the_first_label_that_is_set(labels: dict[str, str], unit: int):
    cache = read(config(block_size="16", **labels)).cache
    assert cache is not None
    assert cache.match_unit_tokens == unit
    assert cache.block_size == 16


@pytest.mark.parametrize("text", ["None", "0", "-16", "16.0", "", "\uff11\uff16", "auto", "9" * 30])
def test_a_block_size_that_is_no_positive_integer_is_unknown(text: str):
    cache = read(config(block_size=text)).cache
    assert cache is not None
    assert cache.block_size is None
    assert cache.match_unit_tokens is None


def test_values_that_differ_between_ranks_are_unknown():
    cache = read(
        config(0, block_size="16", num_gpu_blocks="100", enable_prefix_caching="True")
        + config(1, block_size="32", num_gpu_blocks="100", enable_prefix_caching="False")
    ).cache
    assert cache == CacheConfig(
        match_unit_tokens=None,
        block_size=None,
        prefix_caching=None,
        num_blocks=100,
        capacity_tokens=None,
        labels={"num_gpu_blocks": "100"},
    )


def test_ranks_that_disagree_on_the_unit_do_not_fall_back_to_the_next_label():
    cache = read(
        config(0, cache_hit_alignment_tokens="64", block_size="16")
        + config(1, cache_hit_alignment_tokens="128", block_size="16")
    ).cache
    assert cache is not None
    assert cache.match_unit_tokens is None


@pytest.mark.parametrize(("text", "meaning"), [("True", True), ("False", False), ("None", None)])
def test_prefix_caching_is_a_python_boolean_in_words(text: str, meaning: bool | None):
    cache = read(config(enable_prefix_caching=text)).cache
    assert cache is not None
    assert cache.prefix_caching is meaning


def test_the_configuration_of_one_engine_is_not_taken_for_anothers():
    """Configuration lines are remembered; two that differ in one label must not be mixed up."""
    first = read(config(block_size="16")).cache
    second = read(config(block_size="32")).cache
    assert (first and first.block_size, second and second.block_size) == (16, 32)
    assert first is not None
    assert first.labels == {"block_size": "16"}


@pytest.mark.parametrize(
    ("awake", "asleep"),
    [((1.0,), False), ((0.0,), True), ((1.0, 0.0), True), ((1.0, "NaN"), None), ((), None)],
)
def test_an_engine_is_asleep_if_a_rank_is_not_awake(awake, asleep):
    page = rank("vllm:num_requests_running", 0.0)
    for engine, value in enumerate(awake):
        page += rank("vllm:engine_sleep_state", value, engine, sleep_state="awake")
        page += rank("vllm:engine_sleep_state", 0.0, engine, sleep_state="discard_all")
    assert read(page).asleep is asleep


def test_the_tokens_of_engine_steps_are_the_sum_of_a_histogram_over_all_ranks():
    page = "".join(
        rank("vllm:iteration_tokens_total_bucket", 3.0, engine, le="+Inf")
        + rank("vllm:iteration_tokens_total_count", 3.0, engine)
        + rank("vllm:iteration_tokens_total_sum", 700.0 + engine, engine)
        for engine in range(2)
    )
    assert read(page).iteration_tokens == 1401.0


def test_speculation_is_known_by_its_counters():
    plain = vllm_page()
    drafts = rank("vllm:spec_decode_num_drafts_total", 0.0).encode()
    assert read(plain).speculative is False
    assert read(plain + drafts).speculative is True
    assert read(b"other_metric 1\n").speculative is None
