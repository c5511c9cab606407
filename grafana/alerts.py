"""The alerts that are firing, each with a link to its runbook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from grafana import kinds, names, parts
from grafana.expressions import RULES_LOADED
from grafana.parts import BLUE, ORANGE, RED, dress, rows

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import table

_RULES: Final = Path(__file__).parents[1] / "deploy" / "prometheus" / "rules" / "alerts.yml"
# The table sorts them as text. So `info` has a name that comes last.
_INFO: Final = "zinfo"
_SEVERITIES: Final = {
    "critical": ("critical", RED),
    "warning": ("warning", ORANGE),
    _INFO: ("info", BLUE),
}

# An alert about the exporter itself has no target.
_FIRING: Final = (
    'max by (alertname, target, severity) (ALERTS{target=~"$target|", alertstate="firing"})'
)
_NONE: Final = f'label_replace(0 * {RULES_LOADED}, "alertname", "none", "", "")'


def runbooks() -> dict[str, str]:
    """The page of each alert's runbook. A firing alert has no annotations in Prometheus."""
    rules = _RULES.read_text(encoding="utf-8")
    return dict(re.findall(r"- alert: (\w+).+?/([\w-]+)\.md\"", rules, re.DOTALL))


def _to_runbook() -> tuple[tuple[str, object], ...]:
    """For `column`: an alert's name as the name of its page, and a link to that."""
    pages = {alert: (page, "text") for alert, page in runbooks().items()}
    url = f"{names.RUNBOOKS_URL}/${{__value.text}}"
    link = {"title": "Runbook", "url": url, "targetBlank": True}
    return ("mappings", parts.value_words(pages)), ("links", [link])


def firing() -> table.Panel:
    named = f'label_replace({_FIRING}, "runbook", "$1", "alertname", "(.+)")'
    named = f'label_replace({named}, "severity", "{_INFO}", "severity", "info")'
    return (
        dress(
            kinds.grid("unknown: the rules are not loaded, or no target has a value"),
            "Firing alerts",
            "What is wrong now, the worst first, and the runbook that says what to do: the alerts "
            "of the chosen targets, and those of the exporter itself.",
            "none",
            (12, 7),
            rows("A", f"{named} or on () {_NONE}"),
        )
        .transformations(
            parts.transformations(
                parts.labels("severity", "alertname", "target", "runbook"),
                kinds.sorted_by("severity"),  # critical, warning, info
            )
        )
        .override_by_name(*kinds.column("severity", "none", *kinds.in_words(_SEVERITIES)))
        .override_by_name(*kinds.column("runbook", "none", *_to_runbook()))
    )
