"""The docstring below each field of a section, for --help and the reference.

Read only when needed: pydantic's own option parses the source at every start.
"""

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from itertools import pairwise

from pydantic import BaseModel


@cache
def descriptions(section: type[BaseModel]) -> Mapping[str, str]:
    """The text below each field, as one line. Fields without a text are left out."""
    found: dict[str, str] = {}
    for each in reversed(section.__mro__):
        if issubclass(each, BaseModel) and each.__module__.startswith("exporter."):
            found |= _written_in(each)
    return {name: text for name, text in found.items() if name in section.model_fields}


def _written_in(section: type) -> dict[str, str]:
    (written,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    if not isinstance(written, ast.ClassDef):
        raise TypeError(section)
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in pairwise(written.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }
