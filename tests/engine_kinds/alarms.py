"""Which alerts the pages of a daemon would fire, by Prometheus's own evaluation of the rules."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from served import Labels, Page

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules"
_MOST_PAGES = 30
_HELD_SECONDS = 600  # so long the last page stands: longer than any alert waits
_GONE = "_"  # promtool's word for a sample that is not there
_EXPORTER_UP = ("up", (("job", "vllm-cache-exporter"),))


def firing(promtool: str, pages: Sequence[Page], folder: Path) -> dict[str, dict[str, str]]:
    """By target: the alerts that fire at any time, each with its severity.

    Each page counts as a second, however long it took, and the last one stands for ten minutes.
    Times of day go on meanwhile, as if sessions did.
    """
    thinned = pages[:: max(1, len(pages) // _MOST_PAGES)]
    shown = [*thinned[:_MOST_PAGES], pages[-1]]
    rows = _rows(shown)
    base = max(
        (float(v) for key, row in rows.items() if _is_past(key[0]) for v in row if v != _GONE),
        default=0.0,
    )
    minutes = _HELD_SECONDS // 60
    tests = {
        "rule_files": [str(path) for path in sorted(RULES.glob("*.yml"))],
        "evaluation_interval": "10s",
        "tests": [
            {
                "interval": "1s",
                "input_series": [
                    {"series": _series(*key), "values": _values(key[0], row, base - len(shown))}
                    for key, row in rows.items()
                ],
                "promql_expr_test": [
                    {
                        "expr": f'count_over_time(ALERTS{{alertstate="firing"}}[{minutes}m])',
                        "eval_time": f"{minutes}m",
                        "exp_samples": [],
                    }
                ],
            }
        ],
    }
    path = folder / "pages.yml"
    path.write_text(json.dumps(tests), "utf-8")  # JSON is YAML
    run = subprocess.run(
        [promtool, "test", "rules", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    told = run.stdout + run.stderr
    assert run.returncode == 0 or "got:" in told, told[-3000:]
    return _found(told)


def _rows(pages: Sequence[Page]) -> dict[tuple[str, Labels], list[str]]:
    """Each series' values, page by page, of the families that the rules speak of."""
    text = "".join(path.read_text("utf-8") for path in RULES.glob("*.yml"))
    wanted = set(re.findall(r"\bvllm_\w+", text))
    rows: dict[tuple[str, Labels], list[str]] = {_EXPORTER_UP: ["1"] * len(pages)}
    for place, page in enumerate(pages):
        for key, value in page.samples.items():
            if key[0] in wanted:
                row = rows.setdefault(key, [_GONE] * len(pages))
                row[place] = f"{value:.17g}"
    return rows


def _values(name: str, row: list[str], base: float) -> str:
    if not _is_time(name):
        return " ".join([*row, f"{row[-1]}x{_HELD_SECONDS}"])
    shifted = [value if value == _GONE else f"{float(value) - base:.3f}" for value in row]
    last = shifted[-1]
    held = _GONE if last == _GONE else f"{last}+1"
    return " ".join([*shifted, f"{held}x{_HELD_SECONDS}"])


def _is_time(name: str) -> bool:
    return name.endswith("_timestamp_seconds")


def _is_past(name: str) -> bool:
    return _is_time(name) and not name.endswith("_due_timestamp_seconds")


def _found(told: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for inside in re.findall(r"\{([^{}]*alertname=[^{}]*)\}", told):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', inside))
        if labels.get("alertstate") == "firing":
            target = labels.get("target", "")
            found.setdefault(target, {})[labels["alertname"]] = labels.get("severity", "")
    return found


def _series(name: str, labels: Labels) -> str:
    return f"{name}{{{','.join(f'{key}={json.dumps(value)}' for key, value in labels)}}}"
