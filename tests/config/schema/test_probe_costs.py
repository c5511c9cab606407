"""The settings for the cost of the probe and the price of the engine."""

from __future__ import annotations

import pytest


def test_gaps_are_a_list_in_a_file_and_json_elsewhere(load_text):
    toml = "[probe]\nretention_gaps_seconds = [2, 0.5]\n"
    assert load_text(toml).settings.probe.retention_gaps_seconds == (2.0, 0.5)
    env = {"VLLM_EXPORTER_PROBE__RETENTION_GAPS_SECONDS": "[7]"}
    assert load_text(toml, env=env).settings.probe.retention_gaps_seconds == (7.0,)
    cli = {"probe.retention_gaps_seconds": "[]"}
    assert load_text(toml, env=env, cli=cli).settings.probe.retention_gaps_seconds == ()


def test_the_defaults_fit_together(load_text):
    probe = load_text().settings.probe
    assert probe.retention_gaps_seconds == (1, 10, 60, 300, 900)
    assert max(probe.retention_gaps_seconds) < probe.retention_interval_seconds
    assert probe.tokens_per_hour > 0
    assert 0 < probe.control_ratio < 1


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        (
            "[probe]\nretention_gaps_seconds = [1, 10, 1.0]",
            "exporter.toml: probe.retention_gaps_seconds: must not contain a gap twice",
        ),
        (
            "[probe]\nretention_gaps_seconds = [0]",
            "exporter.toml: probe.retention_gaps_seconds[0] = 0: must be above 0",
        ),
        (
            "[probe]\ntokens_per_hour = -1",
            "exporter.toml: probe.tokens_per_hour = -1: must be 0 or more",
        ),
        (
            "[probe]\ncontrol_ratio = 1.5",
            "exporter.toml: probe.control_ratio = 1.5: must be 1 or less",
        ),
        (
            '[[targets]]\nurl = "http://e"\nprice_per_hour = 2.5',
            "exporter.toml: targets[0].currency: is required with price_per_hour",
        ),
        (
            '[[targets]]\nurl = "http://e"\nprice_per_hour = 2.5\ncurrency = "euro"',
            'exporter.toml: targets[0].currency = "euro": must be three capital letters',
        ),
        (
            '[[targets]]\nurl = "http://e"\nwatts = 0',
            "exporter.toml: targets[0].watts = 0: must be above 0",
        ),
    ],
)
def test_an_impossible_value_is_refused_with_its_key(mistakes_of, toml, line):
    (told,) = mistakes_of(toml)
    assert told.startswith(line)


def test_a_target_has_its_own_price_and_watts(load_text):
    target = load_text(
        '[[targets]]\nurl = "http://e"\nprice_per_hour = 2.5\ncurrency = "EUR"\nwatts = 400\n'
    ).settings.targets[0]
    assert (target.price_per_hour, target.currency, target.watts) == (2.5, "EUR", 400.0)
