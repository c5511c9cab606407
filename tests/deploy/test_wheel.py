"""The wheel: built by pip alone, and complete: files of a deployment, revision, addresses."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from exporter import __version__
from exporter.revision import revision, version_and_revision

ROOT = Path(__file__).parents[2]
ORIGIN = "https://robot:token@git.example/team/exporter.git"
SHARE = f"vllm_cache_exporter-{__version__}.data/data/share/vllm-cache-exporter"
CARRIED = {
    "prometheus/rules": "deploy/prometheus/rules",
    "grafana/dashboards": "grafana/dashboards",
    "systemd": "deploy/systemd",
    "schemas": "docs/schemas",
}


def call(*words: str | Path, cwd: Path, **variables: str) -> str:
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=test", "-c", "user.email=test@example")
    return call("git", *who, *words, cwd=folder)


def wheel_of(folder: Path, **variables: str) -> zipfile.ZipFile:
    """What `pip wheel .` makes, without asking an index."""
    out = folder.parent / f"{folder.name}-wheels"
    quiet = ("--quiet", "--disable-pip-version-check")
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    pip = (sys.executable, "-m", "pip", "wheel", *quiet, *offline)
    call(*pip, "--wheel-dir", out, ".", cwd=folder, **variables)
    (built,) = out.glob("*.whl")
    return zipfile.ZipFile(built)


def written_revision(wheel: zipfile.ZipFile) -> str | None:
    inside = "exporter/revision.txt" in wheel.namelist()
    return wheel.read("exporter/revision.txt").decode().strip() if inside else None


@pytest.fixture
def repository(sources):
    """The same as a git repository with one commit and a remote."""
    git(sources, "init", "--quiet")
    git(sources, "add", ".")
    git(sources, "commit", "--quiet", "--message", "one")
    git(sources, "remote", "add", "origin", ORIGIN)
    return sources


def test_only_the_package_exporter_is_installed_and_files_below_share(sources):
    names = wheel_of(sources).namelist()
    tops = {name.partition("/")[0] for name in names}
    prefix = f"vllm_cache_exporter-{__version__}"
    assert tops == {"exporter", f"{prefix}.dist-info", f"{prefix}.data"}
    assert all(name.startswith(f"{SHARE}/") for name in names if name.startswith(f"{prefix}.data"))


def test_the_wheel_carries_rules_dashboards_unit_and_schemas(sources):
    wheel = wheel_of(sources)
    for place, origin in CARRIED.items():
        files = [path for path in (ROOT / origin).rglob("*") if path.is_file()]
        assert files
        for path in files:
            inside = f"{SHARE}/{place}/{path.relative_to(ROOT / origin)}"
            assert wheel.read(inside) == path.read_bytes()


def test_the_wheel_has_the_commit_and_the_addresses_of_the_remote_without_its_password(repository):
    wheel = wheel_of(repository)
    assert written_revision(wheel) == git(repository, "rev-parse", "--short=12", "HEAD")
    metadata = wheel.read(f"vllm_cache_exporter-{__version__}.dist-info/METADATA").decode()
    home = "https://git.example/team/exporter"
    assert f"Project-URL: Source, {home}\n" in metadata
    assert f"Project-URL: Documentation, {home}/blob/HEAD/docs/README.md\n" in metadata
    assert "token" not in "".join(re.findall(r"^Project-URL.*$", metadata, re.MULTILINE))


@pytest.mark.parametrize(
    ("remote", "home"),
    [
        ("git@git.example:team/exporter.git", "https://git.example/team/exporter"),
        ("ssh://git@git.example/team/exporter", "https://git.example/team/exporter"),
        ("/srv/git/exporter", None),
        ("file:///srv/git/exporter.git", None),
        ("../exporter", None),
    ],
)
def test_a_remote_on_a_server_has_pages_and_a_path_of_this_machine_has_none(remote, home):
    hook = runpy.run_path(str(ROOT / "release/hatch_build.py"))
    addresses = hook["addresses"](remote)
    assert addresses.get("Source") == home
    assert bool(addresses) == (home is not None)


def test_a_changed_file_makes_the_revision_dirty(repository):
    (repository / "README.md").write_text("changed")
    head = git(repository, "rev-parse", "--short=12", "HEAD")
    assert written_revision(wheel_of(repository)) == f"{head}-dirty"


def test_the_environment_gives_the_revision_where_there_is_no_git(sources):
    assert written_revision(wheel_of(sources, EXPORTER_REVISION="abc123")) == "abc123"


def test_an_unknown_revision_and_unknown_addresses_are_absent(sources):
    around = sources.parent  # a repository around the sources is not theirs
    (around / "file").touch()
    git(around, "init", "--quiet")
    git(around, "add", "file")
    git(around, "commit", "--quiet", "--message", "one")
    git(around, "remote", "add", "origin", ORIGIN)
    wheel = wheel_of(sources)
    assert written_revision(wheel) is None
    metadata = wheel.read(f"vllm_cache_exporter-{__version__}.dist-info/METADATA").decode()
    assert "Project-URL" not in metadata


def test_a_wheel_made_from_the_sdist_keeps_the_revision_and_the_files(repository, tmp_path):
    hatchling = (sys.executable, "-m", "hatchling", "build", "--target", "sdist")
    call(*hatchling, "--directory", tmp_path, cwd=repository)
    (made,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(made) as archive:
        archive.extractall(tmp_path, filter="data")
    wheel = wheel_of(tmp_path / made.name.removesuffix(".tar.gz"))
    assert written_revision(wheel) == git(repository, "rev-parse", "--short=12", "HEAD")
    assert f"{SHARE}/prometheus/rules/alerts.yml" in wheel.namelist()


def test_the_program_says_its_revision_also_from_within_an_archive(sources, tmp_path):
    wheel = wheel_of(sources, EXPORTER_REVISION="abc123")
    command = (sys.executable, "-m", "exporter", "--version")
    said = call(*command, cwd=tmp_path, PYTHONPATH=str(wheel.filename))
    assert said == f"vllm-cache-exporter {__version__} (revision abc123)"


def test_a_checkout_claims_no_revision():
    assert revision() is None
    assert version_and_revision() == __version__
