"""Annotations of GitHub Actions, as its workflow commands. Pure.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.wording.findings.finding import Verdict

if TYPE_CHECKING:
    from exporter.report.pipeline.cases import Suite

_LEVELS = {Verdict.FAIL: "error", Verdict.UNKNOWN: "notice"}


def annotation_lines(suite: Suite) -> list[str]:
    """An error for each failed case and a notice for each unknown one."""
    return [
        f"::{level} title={_property(f'{suite.name.split()[0]}: {case.name}')}::{_data(case.text)}"
        for case in suite.cases
        if (level := _LEVELS.get(case.verdict)) is not None
    ]


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
