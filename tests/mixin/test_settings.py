"""The settings of rules and dashboards: a mistake names file, key, value and what is allowed."""

from __future__ import annotations

import re
import tomllib

import pytest

from exporter.metrics.state.latency import TTFT_BOUNDS
from mixin import words
from mixin.settings import CHOSEN, SHIPPED, Settings, SettingsError, chosen, read


@pytest.fixture
def own(tmp_path):
    """Writes a file of one's own."""

    def write(text: str):
        path = tmp_path / "mine.toml"
        path.write_text(text, "utf-8")
        return path

    return write


def keys_of(model, prefix=""):
    for name, field in model.model_fields.items():
        kind = field.annotation
        if hasattr(kind, "model_fields"):
            yield from keys_of(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def flat(table, prefix=""):
    for key, value in table.items():
        if isinstance(value, dict) and key != "alerts":
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_the_shipped_file_has_every_key_and_no_other():
    assert sorted(flat(tomllib.loads(SHIPPED.read_text("utf-8")))) == sorted(keys_of(Settings))


def test_a_comment_stands_above_every_setting_or_group():
    lines = SHIPPED.read_text("utf-8").splitlines()
    told = ""
    for line in lines:
        if not line:
            told = ""
        elif line.startswith("#"):
            told = line
        elif "=" in line:
            assert told, line


def test_a_file_of_ones_own_has_only_the_keys_that_differ(own):
    settings = read(own("[ttft]\nbound_seconds = 2.5\n[ttft.fast]\nmin_turns = 3\n"))
    shipped = read()
    assert settings.ttft.bound_seconds == 2.5
    assert settings.ttft.fast.min_turns == 3
    assert settings.ttft.objective_ratio == shipped.ttft.objective_ratio
    assert settings.ttft.fast.burn_rate == shipped.ttft.fast.burn_rate
    assert settings.hit_ratio == shipped.hit_ratio


def test_the_environment_chooses_the_file(own, monkeypatch):
    chosen.cache_clear()
    monkeypatch.setenv(CHOSEN, str(own("[kv_cache]\nfull = 0.7")))
    assert chosen().kv_cache.full == 0.7
    chosen.cache_clear()
    monkeypatch.delenv(CHOSEN)
    assert chosen() == read()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[hit_ratio]\nlow = 1.4", r"hit_ratio\.low is 1\.4: it must be less than or equal to 1"),
        ("[hit_ratio]\nlow = 0.6", r"hit_ratio: low \(0\.6\) must be below good \(0\.5\)"),
        ("[hit_ratio]\nlow = '0.3'", r"hit_ratio\.low is '0\.3': it must be a valid number"),
        ("[hit_ratio]\nlo = 0.3", r"hit_ratio\.lo: there is no such key; allowed: low, good, "),
        ("[hits]\nlow = 0.3", r"hits: there is no such key; allowed: hit_ratio, efficiency, "),
        ("[efficiency]\nwindow = '10'", r"efficiency\.window is '10': it must be a duration "),
        ("[efficiency]\nwindow = '1m'", r'efficiency: a window of "1m" is too short'),
        ("[crash_loop]\nwindow = '1m'", r"crash_loop\.window is '1m': a window "),
        ("[crash_loop]\nrestarts = 1", r"crash_loop\.restarts is 1: it must be greater than or "),
        ("[ttft.fast]\nburn_rate = 20", r"the file: ttft\.fast\.burn_rate times \(1 - ttft\.obj"),
        (
            "[users_ttft]\nobjective_ratio = 0.9",
            r"the file: ttft\.fast\.burn_rate times \(1 - users_ttft\.objective_ratio\) must be below",
        ),
        ("[ttft.fast]\nlong_window = '5m'", r"ttft\.fast: short_window must be shorter than "),
        ("[ttft.slow]\nshort_window = '5m'", r"ttft: the four windows of fast and slow must dif"),
        ("[ttft]\nobjective_ratio = 1.0", r"ttft\.objective_ratio is 1\.0: it must be less than 1"),
        ("[links]\nrunbooks = 'wiki'", r"links\.runbooks is 'wiki': "),
        ("[labels]\nkeep = ['a-b']", r"labels\.keep\.0 is 'a-b': "),
        (
            "[labels]\nkeep = ['turn']",
            r"labels\.keep is \['turn'\]: turn is there twice, or series",
        ),
        ("[alerts]\nVllmDwn = {}", r"alerts: there is no alert VllmDwn"),
        (
            "[alerts]\nVllmDown = {severity = 'page'}",
            r"alerts\.VllmDown\.severity is 'page': it must be 'critical', 'warning' or 'info'",
        ),
        (
            "[alerts]\nVllmOutOfMemory = {severity = 'info', for = '10m'}",
            r'the file: alerts\.VllmOutOfMemory\.for must be below "10m", or it never fires',
        ),
        ("[ttft", r"Expected ']'"),
    ],
)
def test_a_mistake_names_the_file_the_key_the_value_and_what_is_allowed(own, text, said):
    path = own(text)
    with pytest.raises(SettingsError, match=f"^{re.escape(str(path))}: {said}"):
        read(path)


def test_a_bound_that_is_no_bucket_names_the_buckets(own):
    path = own("[ttft]\nbound_seconds = 0.3")
    with pytest.raises(SettingsError) as caught:
        read(path)
    assert str(caught.value) == (
        f"{path}: ttft.bound_seconds is 0.3: not a bucket of the histogram; allowed: "
        + ", ".join(map(words.number, TTFT_BOUNDS))
    )


def test_all_mistakes_are_named_at_once(own):
    path = own("[hit_ratio]\nlow = 2\n[kv_cache]\nfull = 0\n")
    with pytest.raises(SettingsError) as caught:
        read(path)
    assert [line.split()[1] for line in str(caught.value).splitlines()] == [
        "hit_ratio.low",
        "kv_cache.full",
    ]


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match="No such file"):
        read(tmp_path / "none.toml")


@pytest.mark.parametrize("most", [0, 5, 9, 10, 19, 60, 99, 100, 300, 304, 899, 1000, 3600])
def test_the_pattern_of_the_gaps_accepts_the_numbers_up_to_the_longest(most):
    pattern = words.up_to(most)
    accepted = [n for n in range(12_000) if re.fullmatch(pattern, str(n))]
    assert accepted == list(range(most + 1))


@pytest.mark.parametrize(
    ("duration", "said", "after_the_last"),
    [
        ("1m", "a minute", "minute"),
        ("1h", "an hour", "hour"),
        ("5m", "five minutes", "five minutes"),
        ("30m", "30 minutes", "30 minutes"),
        ("60m", "an hour", "hour"),
        ("90s", "90 seconds", "90 seconds"),
        ("7d", "seven days", "seven days"),
        (900, "15 minutes", "15 minutes"),
        (0.5, "0.5 seconds", "0.5 seconds"),
    ],
)
def test_durations_are_written_in_words(duration, said, after_the_last):
    assert words.words(duration) == said
    assert words.span(duration) == after_the_last


def test_a_bucket_is_written_as_the_exporter_and_prometheus_write_it():
    assert [words.bucket(b) for b in (0.001, 0.5, 1, 2.5, 160)] == [
        "0.001", "0.5", "1.0", "2.5", "160.0",
    ]  # fmt: skip
