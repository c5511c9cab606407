"""Fills the templates below `deploy/mixin`.

A placeholder is `${hit_ratio.low}`. `${target}` is the label `target` and those that rules keep.
`{{ … }}` belongs to Prometheus and stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import jinja2

from mixin import words

if TYPE_CHECKING:
    from mixin.settings import Settings


def _written(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return words.number(value) if is_number else value


_JINJA: Final = jinja2.Environment(
    variable_start_string="${",
    variable_end_string="}",
    block_start_string="[%",
    block_end_string="%]",
    comment_start_string="[##",
    comment_end_string="##]",
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
    finalize=_written,
    autoescape=False,  # noqa: S701 - YAML and Markdown, from values that were checked
)
_JINJA.filters.update(
    bucket=words.bucket,
    days_of_a_month=words.days_of_a_month,
    percent=words.percent,
    small=words.small,
    span=words.span,
    up_to=words.up_to,
    words=words.words,
)


def fill(template: str, settings: Settings) -> str:
    """The text of a template, with the settings in it."""
    target = ", ".join(("target", *settings.labels.keep))
    return _JINJA.from_string(template).render(settings.model_dump(by_alias=True), target=target)
