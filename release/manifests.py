"""Checks Kubernetes resources, read from standard input as YAML, against their schemas.

Run in the environment of requirements/release.txt, which has the schemas: those of Kubernetes in
the strict form without unknown fields, and those of the Prometheus Operator 0.80. Prints what is
wrong with which resource. Exit code 0 if nothing is wrong, else 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import kubernetes_validate
import yaml
from cloudcoil.models.prometheus_operator import v1, v1alpha1
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match

OPERATOR = {"monitoring.coreos.com/v1": v1, "monitoring.coreos.com/v1alpha1": v1alpha1}


def main() -> int:
    """Check each document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubernetes", nargs="+", default=["1.37"], metavar="VERSION")
    versions: list[str] = parser.parse_args().kubernetes
    documents = list(yaml.load_all(sys.stdin, Loader=yaml.CSafeLoader))
    wrong = 0
    for document in documents:
        mistakes = {_mistake(document, version) for version in versions} - {None}
        name = f"{document.get('kind')}/{document.get('metadata', {}).get('name')}"
        wrong += bool(mistakes)
        for mistake in mistakes:
            print(f"{name}: {mistake}")
    print(f"{len(documents)} resources, {wrong} of them wrong")
    return 1 if wrong or not documents else 0


def _mistake(document: dict[str, Any], version: str) -> str | None:
    try:
        models = OPERATOR.get(document["apiVersion"])
        if models is not None:
            schema = _strict(getattr(models, document["kind"]))
            error = best_match(schema.iter_errors(document))
            if error is not None:
                raise error
        else:
            kubernetes_validate.validate(document, version, strict=True)
    except (KeyError, AttributeError, kubernetes_validate.SchemaNotFoundError) as error:
        return f"no schema for it: {error}"
    except ValidationError as error:
        return f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message}"
    return None


def _strict(model: Any) -> Draft202012Validator:
    """The schema of an operator's resource, strict about unknown fields."""
    text = json.dumps(model.model_json_schema(by_alias=True))
    schema: dict[str, Any] = json.loads(text.replace("^(?i)", "(?i)^"))  # from Go to Python
    for part in (schema, *schema["$defs"].values()):
        if part.get("properties"):
            part.setdefault("additionalProperties", False)
    return Draft202012Validator(schema)


if __name__ == "__main__":
    sys.exit(main())
