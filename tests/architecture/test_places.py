"""Changes that touch several places: what is forgotten is named, with the file that lacks it.

docs/contributing.md has the list of places for each kind of change.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest
from publish_records import TURNS, session
from samples_page import page_text, publish

from exporter.analysis.loss.causes import RULES
from exporter.cli.main import build_parser
from exporter.config.schema import keys
from exporter.container.decide.advice import WORDS
from exporter.container.decide.records import Cause
from exporter.engine.metrics import names
from exporter.metrics.state.target import TargetState
from exporter.metrics.store import Metrics
from exporter.model.failure import FailureReason
from exporter.model.reuse import RuleCause
from exporter.model.session import BreakReason, LossCause, Notice, TurnFacts
from exporter.simulator.faults import behaviours, faults
from exporter.simulator.faults.fault_fields import Fault
from exporter.wording.notices import ADVICE, BREAK_ADVICE, FAILURE_ADVICE, LOSS_ADVICE
from exporter.wording.reuse_rules import RULE_ADVICE

ROOT = Path(__file__).parents[2]
WORDING = "exporter/wording/notices.py"
VERSIONS = ROOT / "tests/engine/data/versions"


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


@pytest.mark.parametrize("cause", LossCause)
def test_a_loss_cause_has_a_rule_an_advice_and_a_row_in_the_docs(cause):
    assert len(RULES) == len(LossCause), "exporter/analysis/loss/causes.py: RULES lacks a rule"
    assert cause in LOSS_ADVICE, f"{WORDING}: LOSS_ADVICE lacks {cause}"
    assert f"| `{cause}` |" in page("loss-causes.md"), f"docs/loss-causes.md lacks {cause}"


@pytest.mark.parametrize("cause", RuleCause)
def test_a_cause_of_the_reuse_rule_has_an_advice_and_a_row_in_the_docs(cause):
    assert cause in RULE_ADVICE, f"exporter/wording/reuse_rules.py: RULE_ADVICE lacks {cause}"
    assert f"| `{cause}` |" in page("loss-causes.md"), f"docs/loss-causes.md lacks {cause}"


NUMBERS = [
    each.name
    for each in dataclasses.fields(TurnFacts)
    if type(getattr(TURNS[-1], each.name)) in (int, float)
]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_of_a_turn_is_on_the_metrics_page(name):
    """Two pages that differ only by this number."""
    pages = []
    for factor in (1, 2):
        played = dataclasses.replace(TURNS[-1], **{name: getattr(TURNS[-1], name) * factor})
        metrics = Metrics()
        metrics.add(TargetState("local"))
        publish(metrics, session(played))
        pages.append(page_text(metrics))
    assert pages[0] != pages[1], f"exporter/metrics/families/sessions.py: nothing shows {name}"


@pytest.mark.parametrize(
    ("kinds", "words", "name"),
    [
        (Notice, ADVICE, "ADVICE"),
        (BreakReason, BREAK_ADVICE, "BREAK_ADVICE"),
        (FailureReason, FAILURE_ADVICE, "FAILURE_ADVICE"),
    ],
)
def test_what_a_session_may_say_has_words(kinds, words, name):
    assert set(kinds) == set(words), f"{WORDING}: {name} and {kinds.__name__} differ"


@pytest.mark.parametrize("cause", Cause)
def test_a_diagnosis_has_words_and_a_row_in_the_docs(cause):
    assert cause in WORDS, f"exporter/container/decide/advice.py: WORDS lacks {cause}"
    assert f"| `{cause}` |" in page("container.md"), f"docs/container.md lacks {cause}"


@pytest.mark.parametrize(
    "version", sorted(each.name for each in VERSIONS.iterdir() if each.is_dir())
)
@pytest.mark.parametrize("family", [names.QUERIED_TOKENS, names.HIT_TOKENS, names.PROMPT_TOKENS])
def test_a_metric_is_found_under_its_name_in_every_release(family, version):
    shown = (VERSIONS / version / "metrics.txt").read_text("utf-8")
    assert any(f"\n{name}{{" in shown for name in family.names) or version in names_without(
        family
    ), f"exporter/engine/metrics/names.py: vLLM {version} has none of {family.names}"


def names_without(family: names.Family) -> tuple[str, ...]:
    """Releases whose V0 engine counts no lookups."""
    return ("0.8.5", "0.9.2-v0") if family is not names.PROMPT_TOKENS else ()


@pytest.mark.parametrize(("module", "listed"), [(faults, "_ALL"), (behaviours, "ALL")])
def test_a_simulator_fault_can_be_asked_for(module, listed):
    kinds = [each for each in vars(module).values() if isinstance(each, type)]
    kinds = [each for each in kinds if each.__module__ == module.__name__ and each is not Fault]
    for kind in (each for each in kinds if issubclass(each, Fault)):
        assert kind in faults.KINDS.values(), f"{module.__name__}: {listed} lacks {kind.__name__}"
        assert kind.__doc__, f"{module.__name__}: {kind.__name__} has no text for GET /faults"


@pytest.mark.parametrize("command", ["probe", "check", "compare"])
def test_an_option_of_a_command_is_in_its_page(command):
    parser = build_parser([command])
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    options = {o for action in commands.choices[command]._actions for o in action.option_strings}
    of_all = {"--help", "--help-all", "--config", "--env-file", "--secrets-dir", "--set", "--model"}
    of_all |= {f"--{keys.show(leaf.key)}" for leaf in keys.leaves()}
    lacking = [
        option
        for option in sorted(options - of_all)
        if option.startswith("--") and "." not in option and option not in page(f"{command}.md")
    ]
    assert not lacking, f"docs/{command}.md lacks {lacking}"
