"""No text tells people to install this project by name: no package index has it."""

from __future__ import annotations

import re

import pytest
from doc_pages import PAGES, ROOT

FOLDERS = ("exporter", "deploy", "grafana", "release", ".ci")
TOP = ("Makefile", "Dockerfile", "compose.yaml", "pyproject.toml")
TEXTS = [
    *PAGES,
    *(ROOT / name for name in TOP),
    *(
        path
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    ),
]
# `install`, but not `uninstall`; then the bare name: no path, no file name, no image.
BY_NAME = re.compile(
    r"(?:\binstall\b|\bpipx run\b|\buvx\b|\buv add\b)[^\n]*?"
    r"(?<![\w./~-])vllm[-_]cache[-_]exporter(?=[\[\s'\"`=<>~@]|$)",
    re.MULTILINE,
)


def test_no_text_installs_the_project_from_a_package_index():
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in TEXTS
        for match in BY_NAME.finditer(path.read_text("utf-8"))
    ]
    assert len(TEXTS) > 300
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        "pip install 'vllm-cache-exporter[report]'",
        "pip install -U vllm-cache-exporter",
        "pipx run vllm-cache-exporter",
        "uvx vllm-cache-exporter probe",
        "pip install vllm_cache_exporter==0.1.0",
    ],
)
def test_such_a_text_is_found(text):
    assert BY_NAME.search(text)


@pytest.mark.parametrize(
    "text",
    [
        "pipx uninstall vllm-cache-exporter",
        "pip install './dist/vllm_cache_exporter-0.1.0-py3-none-any.whl[report]'",
        "/opt/vllm-cache-exporter/bin/pip install --no-deps",
        "install -D deploy/systemd/vllm-cache-exporter.service",
    ],
)
def test_a_file_or_the_removal_is_none(text):
    assert not BY_NAME.search(text)
