"""What Prometheus would read of a real sink over a time, as the input of a promtool rule test."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from samples_page import Page

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from exporter.metrics.store import Metrics

RULES = Path(__file__).parents[3] / "deploy" / "prometheus" / "rules"
SCRAPE_SECONDS = 10

Labels = frozenset[tuple[str, str]]
Key = tuple[str, Labels]


class Course:
    """Scrapes of the whole page, one every `SCRAPE_SECONDS`; a series that is gone becomes stale."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._scrapes: list[dict[Key, float]] = []

    @property
    def seconds(self) -> int:
        """Of the next scrape, from the first one."""
        return len(self._scrapes) * SCRAPE_SECONDS

    def scrape(self, times: int = 1) -> None:
        page = Page(self._metrics).samples
        page["up", frozenset({("job", "vllm-cache-exporter")})] = 1.0
        self._scrapes += [page] * times

    def check(
        self,
        promtool: str,
        folder: Path,
        expected: Mapping[int, Collection[str]],
        state: str = "firing",
    ) -> None:
        """Assert which alerts are in `state` at some seconds of the course, and no others."""
        questions = [
            {
                "expr": f'group by (alertname) (ALERTS{{alertstate="{state}"}})',
                "eval_time": f"{second}s",
                "exp_samples": [
                    {"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)
                ],
            }
            for second, names in expected.items()
        ]
        shared = [str(path) for path in sorted(RULES.glob("*.yml"))]
        every = f"{SCRAPE_SECONDS}s"
        course = {
            "interval": every,
            "input_series": self._series(),
            "promql_expr_test": questions,
        }
        test = {"rule_files": shared, "evaluation_interval": every, "tests": [course]}
        path = folder / "course.yml"
        path.write_text(json.dumps(test), "utf-8")  # JSON is YAML, too
        done = subprocess.run(
            [promtool, "test", "rules", str(path)],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _series(self) -> list[dict[str, str]]:
        keys = sorted({key for page in self._scrapes for key in page}, key=str)
        return [
            {"series": _selector(*key), "values": " ".join(_values(self._scrapes, key))}
            for key in keys
        ]


def _selector(name: str, labels: Labels) -> str:
    return f"{name}{{{', '.join(f'{k}={json.dumps(v)}' for k, v in sorted(labels))}}}"


def _values(scrapes: Iterable[Mapping[Key, float]], key: Key) -> Iterator[str]:
    """One that is gone is stale at the next scrape, as Prometheus marks it."""
    before = False
    for page in scrapes:
        value = page.get(key)
        yield ("stale" if before else "_") if value is None else repr(value)
        before = value is not None
