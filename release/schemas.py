"""Writes the JSON schemas of docs/schemas: the configuration file, the HTTP API, and `explain`.

Writes the configuration's definitions into the schema of the chart's values, the rest of which is
by hand.

Run by `make schemas`; a test checks that they are current.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from exporter.config import Settings
from exporter.report.requests.json import RecordingJson
from exporter.web.api_description import description

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs/schemas"
CHART = ROOT / "deploy/helm/vllm-cache-exporter/values.schema.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, str]:
    """The text of each file by its name."""
    settings = {"$schema": DIALECT, **Settings.model_json_schema()}
    explained = TypeAdapter(RecordingJson).json_schema(mode="serialization")
    return {
        "settings.json": _text(settings),
        "openapi.json": _text(description()),
        "explain.json": _text({"$schema": DIALECT, **explained}),
    }


def chart_schema() -> str:
    """The schema of the chart's values: `config` is the configuration file."""
    document = json.loads(CHART.read_text(encoding="utf-8"))
    settings = Settings.model_json_schema()
    definitions = settings.pop("$defs")
    return _text({**document, "$defs": definitions | {"Settings": settings}})


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1) + "\n"


def main() -> None:
    """Write the files."""
    for name, text in schemas().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    CHART.write_text(chart_schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
