"""What is allowed for OTLP, and what the extra's absence says."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from exporter.config import OtlpSettings, describe, load
from exporter.config.schema import otlp
from exporter.errors import ConfigError


def settings(folder, text, **environ):
    file = folder / "exporter.toml"
    file.write_text(text)
    return load(config_file=file, environ=environ, dotenv=None)


def test_both_signals_are_off_by_default(tmp_path):
    assert not settings(tmp_path, "").settings.otlp.enabled


@pytest.mark.parametrize("signal", ["metrics_enabled", "traces_enabled"])
def test_without_the_extra_a_signal_is_a_mistake_that_says_what_to_install(
    tmp_path, monkeypatch, signal
):
    monkeypatch.setattr(otlp, "EXTRA_PACKAGE", "nowhere.exporter")
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, f"[otlp]\n{signal} = true\n")
    message = str(caught.value)
    assert f"otlp.{signal}" in message
    assert "pip install 'opentelemetry-sdk>=1.36'" in message
    monkeypatch.setattr(otlp, "EXTRA_PACKAGE", "exporter.nowhere")
    with pytest.raises(ConfigError, match="needs the OpenTelemetry SDK"):
        settings(tmp_path, f"[otlp]\n{signal} = true\n")


def test_settings_beside_a_signal_that_is_off_need_no_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(otlp, "EXTRA_PACKAGE", "nowhere.exporter")
    assert settings(tmp_path, '[otlp]\nendpoint = "collector:4318"\n').settings.otlp.endpoint == (
        "http://collector:4318"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("endpoint", "ftp://collector"),
        ("endpoint", "http://me:secret@collector:4318"),
        ("interval_seconds", 0.5),
        ("timeout_seconds", 0),
        ("compression", "zstd"),
        ("headers", {"Content-Type": "x"}),
        ("headers", {"a b": "x"}),
        ("headers", {"X": " padded"}),
    ],
)
def test_a_wrong_value_is_a_mistake(key, value):
    with pytest.raises(ValidationError):
        OtlpSettings(**{key: value})


def test_a_header_is_a_secret_that_may_come_from_a_file(tmp_path):
    (tmp_path / "key").write_text("Bearer canary\n")
    loaded = settings(tmp_path, '[otlp.header_files]\nAuthorization = "key"\n')
    found = loaded.settings.otlp.headers["Authorization"]
    assert found.get_secret_value() == "Bearer canary"
    assert "canary" not in describe(loaded)
    assert "canary" not in repr(loaded.settings)


def test_a_header_needs_no_doubled_braces():
    given = OtlpSettings(headers={"X-Json": '{"a": 1}'})
    assert given.headers["X-Json"].get_secret_value() == '{"a": 1}'


def test_a_certificate_that_cannot_be_read_is_found_at_the_start(tmp_path):
    with pytest.raises(ConfigError, match=r"otlp\.ca_file"):
        settings(tmp_path, '[otlp]\nca_file = "nowhere.pem"\n')
