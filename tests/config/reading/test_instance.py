"""The default name of this exporter."""

from __future__ import annotations

import pytest

from exporter.config.reading.instance import default_instance

MANAGED = '[[targets]]\nmode = "managed"\n[targets.container]\nmodel = "m"\n'


@pytest.fixture
def machine(tmp_path):
    file = tmp_path / "machine-id"
    file.write_text("6fd1\n")
    return file


def test_the_instance_is_the_same_for_every_spelling_of_a_path(tmp_path, machine, monkeypatch):
    file = tmp_path / "exporter.toml"
    monkeypatch.chdir(tmp_path)
    assert default_instance(file, machine) == default_instance(file.relative_to(tmp_path), machine)


def test_the_instance_differs_by_file_and_by_machine(tmp_path, machine):
    other = tmp_path / "other-id"
    other.write_text("7aa0\n")
    file = tmp_path / "a.toml"
    ids = {
        default_instance(file, machine),
        default_instance(tmp_path / "b.toml", machine),
        default_instance(file, other),
        default_instance(file, tmp_path / "none"),
        default_instance(None, machine),
    }
    assert len(ids) == 5


@pytest.mark.parametrize("targets", [MANAGED, '[[targets]]\nurl = "http://e:8000"\n'])
def test_every_exporter_has_an_instance_name_before_its_first_container(
    load_text, tmp_path, targets
):
    assert load_text(targets).settings.instance == default_instance(tmp_path / "exporter.toml")


def test_a_set_instance_name_wins(load_text):
    assert load_text(f'instance = "mine"\n{MANAGED}').settings.instance == "mine"
    env = {"VLLM_EXPORTER_INSTANCE": "theirs"}
    assert load_text(MANAGED, env=env).settings.instance == "theirs"
