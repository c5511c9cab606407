"""Merging the targets of the configuration and of discovery."""

from __future__ import annotations

from structlog.testing import capture_logs

from exporter.config import Target
from exporter.daemon.target_lists import TargetLists


def target(name: str, port: int = 1) -> Target:
    return Target(name=name, url=f"http://127.0.0.1:{port}")


def test_each_source_replaces_its_own_targets():
    lists = TargetLists([target("a")]).with_found("dns", [target("b"), target("c")])
    lists = lists.with_found("docker", [target("d")]).with_found("dns", [target("c")])
    assert [each.name for each in lists.merged()] == ["a", "c", "d"]
    assert [each.name for each in lists.without("dns").merged()] == ["a", "d"]
    assert [each.name for each in lists.with_static([]).merged()] == ["c", "d"]


def test_of_two_targets_with_one_name_the_earlier_stays_and_the_other_is_logged_once():
    lists = TargetLists([target("a", 1)])
    with capture_logs() as logs:
        for _ in range(3):
            lists = lists.with_found("dns", [target("a", 2), target("b", 2)])
            lists = lists.with_found("docker", [target("b", 3)])
            merged = lists.merged()
    assert {each.name: each.base_url[-1] for each in merged} == {"a": "1", "b": "2"}
    assert [(each["source"], each["target"]) for each in logs] == [("dns", "a"), ("docker", "b")]


def test_a_name_is_free_again_after_a_clash():
    lists = TargetLists([target("a", 1)]).with_found("dns", [target("a", 2)])
    with capture_logs() as logs:
        lists.merged()
        gone = lists.with_static([])
        assert [each.base_url[-1] for each in gone.merged()] == ["2"]
        gone.with_static([target("a", 1)]).merged()
    assert len(logs) == 2, "it is told again when it begins again"
