"""A wheel has no docs/, so no help names a page of it."""

from __future__ import annotations

import re

import pytest

from exporter.cli.main import COMMANDS, main

PAGE = re.compile(r"[\w/-]+\.md\b|\bdocs/")


@pytest.mark.parametrize(
    "words", [["--help"], *([name, word] for name in COMMANDS for word in ("--help", "--help-all"))]
)
def test_the_help_names_no_page(words, capsys):
    with pytest.raises(SystemExit):
        main(words)
    said = capsys.readouterr()
    assert not PAGE.search(said.out + said.err)
