"""A report in JUnit's XML, which most CI servers show. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET  # writes only

from exporter.model.json_fields import rfc3339
from exporter.wording.findings.finding import Verdict

if TYPE_CHECKING:
    from exporter.report.pipeline.cases import Suite

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot have."""


def junit_xml(suite: Suite) -> str:
    """One testsuite. A failed case has a `failure`, an unknown one is `skipped`."""
    verdicts = [case.verdict for case in suite.cases]
    root = ET.Element(
        "testsuite",
        name=_clean(suite.name),
        tests=str(len(verdicts)),
        failures=str(verdicts.count(Verdict.FAIL)),
        errors="0",
        skipped=str(verdicts.count(Verdict.UNKNOWN)),
        time=f"{suite.seconds:.3f}",
        timestamp=rfc3339(suite.started_time),
    )
    for case in suite.cases:
        one = ET.SubElement(root, "testcase", classname=_clean(suite.name), name=_clean(case.name))
        text = _clean(case.text)
        if case.verdict is Verdict.FAIL:
            ET.SubElement(one, "failure", message=text).text = text
        elif case.verdict is Verdict.UNKNOWN:
            ET.SubElement(one, "skipped", message=text)
        elif text:
            ET.SubElement(one, "system-out").text = text
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, "unicode") + "\n"


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("?", text)
