"""The line of TTFT over uncached tokens: what it finds, which outliers it ignores, when it is None."""

import random
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from publish_records import turn

from exporter.analysis.prefill_cost import POINTS_KEPT, Point, points_of, prefill_cost, with_points
from exporter.model.session import Control, ControlOutcome

SLOPE, FLOOR = 0.0002, 0.02


def requests(chance: random.Random, sessions: int = 8, *, noise: float = 0.03):
    """Sessions as they are: one cold first turn, warm turns, and one cold control."""
    uncached = [
        tokens
        for _ in range(sessions)
        for tokens in (
            2071,
            *(chance.randint(90, 190) for _ in range(7)),
            chance.randint(2200, 2800),
        )
    ]
    return [
        Point(tokens, (FLOOR + SLOPE * tokens) * (1 + chance.uniform(-noise, noise)))
        for tokens in uncached
    ]


def test_a_line_without_noise_is_found_exactly():
    cost = prefill_cost(requests(random.Random(1), noise=0))
    assert cost.seconds_per_token == pytest.approx(SLOPE)
    assert cost.floor_seconds == pytest.approx(FLOOR)
    assert cost.error == pytest.approx(0, abs=1e-9)
    assert cost.ttft_seconds(1000) == pytest.approx(0.22)
    assert cost.points == 72


def test_a_line_with_a_negative_intercept_has_no_floor():
    points = [Point(tokens, SLOPE * tokens - 0.001) for tokens in range(100, 2000, 100)]
    cost = prefill_cost(points)
    assert cost.seconds_per_token == pytest.approx(SLOPE)
    assert cost.ttft_seconds(0) == pytest.approx(-0.001)
    assert cost.floor_seconds is None


@pytest.mark.parametrize("noise", [0.03, 0.2])
def test_the_error_is_as_large_as_the_scatter_of_the_slope(noise):
    costs = [prefill_cost(requests(random.Random(seed), noise=noise)) for seed in range(100)]
    scatter = statistics.stdev(cost.seconds_per_token for cost in costs)
    assert statistics.fmean(cost.seconds_per_token for cost in costs) == pytest.approx(
        SLOPE, rel=0.01
    )
    assert statistics.fmean(cost.error for cost in costs) == pytest.approx(scatter, rel=0.4)


def test_the_error_is_not_too_small_where_cold_requests_are_few():
    costs = [prefill_cost(requests(random.Random(seed), 2, noise=0.1)) for seed in range(200)]
    scatter = statistics.stdev(cost.seconds_per_token for cost in costs)
    assert statistics.fmean(cost.error for cost in costs) > 0.9 * scatter


def test_requests_that_waited_in_a_queue_do_not_move_it():
    chance = random.Random(3)
    points = [
        Point(point.uncached_tokens, point.ttft_seconds + (5 if chance.random() < 0.2 else 0))
        for point in requests(chance)
    ]
    assert prefill_cost(points).seconds_per_token == pytest.approx(SLOPE, rel=0.05)


def test_a_third_of_each_kind_of_request_may_wait_in_a_queue():
    slopes = []
    for seed in range(50):
        chance = random.Random(seed)
        points = [
            Point(
                point.uncached_tokens, point.ttft_seconds + chance.choice((0, 0, chance.random()))
            )
            for point in requests(chance, sessions=14)
        ]
        slopes.append(prefill_cost(points).seconds_per_token)
    assert min(slopes) > 0.9 * SLOPE
    assert max(slopes) < 1.1 * SLOPE


class Counted(float):
    """A time that counts how often something is subtracted from it, which each residual is."""

    subtractions = 0

    def __sub__(self, other):
        Counted.subtractions += 1
        return float(self) - other


def test_a_fit_looks_at_each_point_a_few_times_and_not_at_each_pair_of_points():
    points = requests(random.Random(1), sessions=20)[-POINTS_KEPT:]
    prefill_cost([Point(each.uncached_tokens, Counted(each.ttft_seconds)) for each in points])
    assert len(points) <= Counted.subtractions <= 10 * len(points)


def test_one_cold_request_among_warm_ones_shows_no_cost():
    warm = [Point(100 + number, 0.04 + number / 10000) for number in range(20)]
    assert prefill_cost([*warm, Point(2000, 0.4), Point(2100, 0.42)]) is None
    assert prefill_cost([*warm, Point(2000, 0.4), Point(2100, 0.42), Point(2200, 0.44)]) is not None


def test_few_points_show_no_cost():
    assert prefill_cost(requests(random.Random(1), sessions=1, noise=0)) is None
    assert prefill_cost([]) is None


def test_points_at_one_length_show_no_cost():
    assert prefill_cost([Point(500, 0.1 + number / 100) for number in range(30)]) is None


def test_times_that_do_not_depend_on_the_tokens_show_no_cost():
    found = 0
    for seed in range(200):
        chance = random.Random(seed)
        points = [
            Point(point.uncached_tokens, chance.gauss(0.1, 0.02)) for point in requests(chance)
        ]
        found += prefill_cost(points) is not None
    assert found <= 2


def test_a_server_that_is_quicker_with_more_to_do_shows_no_cost():
    assert prefill_cost([Point(100 * number, 9 - 0.1 * number) for number in range(1, 40)]) is None


POINTS = st.lists(
    st.builds(Point, st.integers(1, 10_000), st.floats(0, 100)), min_size=0, max_size=40
)


@given(POINTS)
def test_a_cost_is_always_positive_and_four_errors_above_zero(points):
    cost = prefill_cost(points)
    assert cost is None or 0 <= 4 * cost.error <= cost.seconds_per_token < float("inf")


@given(st.integers(0, 1000), st.sampled_from([0.001, 1.0, 1000.0]))
def test_the_unit_of_time_does_not_matter(seed, factor):
    points = requests(random.Random(seed))
    scaled = [Point(point.uncached_tokens, point.ttft_seconds * factor) for point in points]
    one, other = prefill_cost(points), prefill_cost(scaled)
    assert other.seconds_per_token == pytest.approx(one.seconds_per_token * factor, rel=1e-4)
    assert other.error == pytest.approx(one.error * factor, rel=1e-3)


@given(st.integers(0, 1000))
def test_the_order_of_the_points_does_not_matter(seed):
    points = requests(random.Random(seed))
    mixed = random.Random(seed + 1).sample(points, len(points))
    assert prefill_cost(mixed).seconds_per_token == pytest.approx(
        prefill_cost(points).seconds_per_token, rel=1e-6
    )


def test_a_turn_and_its_cold_control_are_two_points():
    control = Control(ControlOutcome.COLD, True, 1250, 32, 0.5)
    turns = [
        turn(1, 1000, 0, 0, ttft=0.5),
        replace(turn(2, 1250, 992, 992, ttft=0.0625), control=control),
        turn(3, 1500, None, None, ttft=0.25),
        turn(4, 1600, 1500, 1500, ttft=None),
    ]
    assert points_of(turns) == [Point(1000, 0.5), Point(258, 0.0625), Point(1250, 0.5)]


def test_a_control_that_was_not_cold_is_no_point():
    control = Control(ControlOutcome.NOT_COLD, True, 1250, 32, 0.5)
    assert points_of([replace(turn(2, 1250, None, None), control=control)]) == []


def test_only_the_latest_points_are_kept():
    points = [Point(number, 1.0) for number in range(POINTS_KEPT + 5)]
    assert with_points(points[:100], points[100:]) == tuple(points[5:])


def test_a_turn_that_a_store_served_is_no_point_since_loading_takes_time():
    loaded = replace(turn(2, 1250, 992, 992), external_cached_tokens=512)
    own = replace(loaded, external_cached_tokens=0)
    assert points_of([loaded]) == []
    assert [point.uncached_tokens for point in points_of([own])] == [258]
