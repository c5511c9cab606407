"""Labels of a target's series: what is read, and what is refused."""

from __future__ import annotations

import pytest

from exporter.config.schema.additions import MOST_LABELS, OF_FAMILIES
from exporter.errors import ConfigError
from exporter.metrics.families.tables import (
    EXPORTER_FAMILIES,
    LOOP_FAMILIES,
    ON_DEMAND_FAMILIES,
    TARGET_FAMILIES,
)

TARGET = '[[targets]]\nurl = "http://a:1"\n'


def labels_of(load_text, text, **sources):
    return dict(load_text(TARGET + text, **sources).settings.targets[0].labels)


def test_labels_are_read_from_a_file_and_the_environment(load_text):
    found = labels_of(
        load_text,
        'labels = { team = "search", gpu = "8 x H100" }\n',
        env={"VLLM_EXPORTER_TARGETS__0__LABELS__cluster": "eu-1"},
    )
    assert found == {"team": "search", "gpu": "8 x H100", "cluster": "eu-1"}


def test_without_any_there_are_none(load_text):
    assert labels_of(load_text, "") == {}


def test_a_source_gives_its_labels_to_all_of_its_targets(load_text):
    loaded = load_text('[[discovery.dns]]\nname = "n"\nhost = "h"\nlabels = { team = "a" }\n')
    (source,) = loaded.settings.discovery.dns
    assert source.template()["labels"] == {"team": "a"}


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (
            'target = "a"',
            "targets[0].labels.target = … is reserved: series of the exporter have a label of it",
        ),
        (
            'le = "a"',
            "targets[0].labels.le = … is reserved: series of the exporter have a label of it",
        ),
        (
            'instance = "a"',
            "targets[0].labels.instance = … is reserved: Prometheus or an alert sets it",
        ),
        (
            'severity = "a"',
            "targets[0].labels.severity = … is reserved: Prometheus or an alert sets it",
        ),
        (
            '__name = "a"',
            "targets[0].labels.__name = … is reserved: Prometheus uses names that begin with __",
        ),
        ('"my-team" = "a"', "must be a label name of Prometheus, such as team"),
        ('"1a" = "a"', "must be a label name of Prometheus, such as team"),
        (
            'team = ""',
            "targets[0].labels.team = … must be printable, not empty, and not begin or end with a",
        ),
        (
            'team = " a"',
            "targets[0].labels.team = … must be printable, not empty, and not begin or end with a",
        ),
        (
            'team = "a\\nb"',
            "targets[0].labels.team = … must be printable, not empty, and not begin or end with",
        ),
        (f'team = "{"a" * 129}"', "targets[0].labels.team = … must have 128 characters at most"),
        (
            ", ".join(f'l{number} = "a"' for number in range(MOST_LABELS + 1)),
            "labels: may have 10 labels at most: each is on every series",
        ),
    ],
)
def test_a_label_that_cannot_be_is_refused(load_text, label, said):
    with pytest.raises(ConfigError) as caught:
        load_text(f"{TARGET}labels = {{ {label} }}\n")
    key, _, why = said.rpartition(" = … ")
    assert f"{key} = " in str(caught.value) or f"{key}: " in str(caught.value)
    assert why in str(caught.value)


def test_every_label_of_the_exporters_own_series_is_reserved():
    """A target's label of the same name would hide it."""
    families = (*TARGET_FAMILIES, *EXPORTER_FAMILIES, *LOOP_FAMILIES, *ON_DEMAND_FAMILIES)
    used = {label for family in families for label in family.reader.labels}
    assert used | {"target", "le", "quantile"} == OF_FAMILIES
