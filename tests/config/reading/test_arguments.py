"""The flags of the commands."""

from __future__ import annotations

import argparse

import pytest

from exporter.config import add_arguments, collected, load_from


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(made)
    return made


def test_each_setting_outside_the_targets_has_a_flag_of_its_name(parser):
    options = parser.parse_args(
        ["--listen", "127.0.0.1:1", "--probe.max_tokens", "3", "--log.level=debug"]
    )
    assert collected(options) == {
        "listen": "127.0.0.1:1",
        "probe.max_tokens": "3",
        "log.level": "debug",
    }


def test_without_flags_nothing_is_collected(parser):
    assert collected(parser.parse_args([])) == {}


def test_the_last_of_two_equal_flags_wins(parser):
    options = parser.parse_args(["--probe.max_tokens", "3", "--set", "probe.max_tokens=4"])
    assert collected(options) == {"probe.max_tokens": "4"}


def test_set_changes_a_setting_of_a_target(parser, tmp_path):
    options = parser.parse_args(
        [
            "--set",
            "targets[0].url=http://e:8000",
            "--set",
            "targets.0.model=a=b",
            "--env-file",
            str(tmp_path / "none"),
            "--secrets-dir",
            str(tmp_path),
        ]
    )
    (target,) = load_from(options, {}).settings.targets
    assert (target.url, target.model) == ("http://e:8000", "a=b")


def test_set_without_a_value_is_wrong_usage(parser):
    with pytest.raises(argparse.ArgumentError, match="must be KEY=VALUE"):
        parser.parse_args(["--set", "probe.max_tokens"])


def test_files_and_folders_can_be_named(parser, tmp_path):
    (tmp_path / "c.toml").write_text('[[targets]]\nurl = "http://e"\n', encoding="utf-8")
    (tmp_path / "e").write_text("VLLM_EXPORTER_LOG__LEVEL=debug\n", encoding="utf-8")
    (tmp_path / "vllm_exporter_targets__0__api_key").write_text("sk", encoding="utf-8")
    options = parser.parse_args(
        [
            "--config",
            str(tmp_path / "c.toml"),
            "--env-file",
            str(tmp_path / "e"),
            "--secrets-dir",
            str(tmp_path),
        ]
    )
    settings = load_from(options, {}, targets_required=True).settings
    assert settings.log.level == "debug"
    assert settings.targets[0].api_key.get_secret_value() == "sk"


def test_the_help_of_every_flag_can_be_printed(parser):
    text = parser.format_help()
    assert "--probe.interval_seconds VALUE" in text
    assert "--targets JSON" in text
