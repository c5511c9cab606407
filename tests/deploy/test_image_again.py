"""The image, built twice from checkouts with other times and modes: the same layer of files."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
import tarfile
from pathlib import Path

import pytest
from deploy_stack import run

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
ALLOWED = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE)
CONTEXT = ("Dockerfile", ".dockerignore", *ALLOWED)
# What is deleted leaves a mark of the time when; /etc is where the builder mounts its own files.
MARK, MOUNTED = ".wh.", "etc"


@pytest.fixture(scope="module")
def again(image, tmp_path_factory):
    """The same image from a checkout with other times and modes, without Docker's cache."""
    name = f"vce-test:{secrets.token_hex(6)}"
    context = another_checkout(tmp_path_factory.mktemp("checkout"))
    run("docker", "build", "-q", "--no-cache", "-t", name, str(context), timeout=600)
    yield name
    run("docker", "image", "rm", "-f", name)


def another_checkout(folder: Path) -> Path:
    for name in CONTEXT:
        source, copy = ROOT / name, folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    for path in folder.rglob("*"):
        path.chmod(path.stat().st_mode | 0o020)
        path.touch()
    return folder


def layers(image: str, folder: Path) -> list[Path]:
    saved = folder / "image.tar"
    run("docker", "save", "-o", str(saved), image, timeout=300)
    with tarfile.open(saved) as archive:
        archive.extractall(folder, filter="data")
    saved.unlink()
    manifest = json.loads((folder / "manifest.json").read_text())[0]
    return [folder / name for name in manifest["Layers"]]


def entries(layer: Path) -> dict[str, tuple]:
    """All properties of an entry; its time comes last."""
    with tarfile.open(layer) as archive:
        return {
            each.name: (
                each.type,
                each.mode,
                each.uid,
                each.gid,
                each.linkname if each.issym() else "",
                digest(archive, each),
                each.mtime,
            )
            for each in archive
        }


def digest(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> str:
    reader = archive.extractfile(entry) if entry.isreg() else None
    return hashlib.sha256(reader.read()).hexdigest() if reader else ""


@pytest.fixture(scope="module")
def both(image, again, tmp_path_factory):
    """The layers of both images that the Dockerfile makes, without those of the base image."""
    first, second = (layers(each, tmp_path_factory.mktemp("layers")) for each in (image, again))
    base = len(
        json.loads(run("docker", "image", "inspect", "python:3.11-slim"))[0]["RootFS"]["Layers"]
    )
    assert first[:base] != first
    return [[entries(layer) for layer in image_layers[base:]] for image_layers in (first, second)]


def test_every_layer_has_the_same_files(both):
    first, second = ([{k: v[:-1] for k, v in e.items()} for e in layer] for layer in both)
    assert sum(len(layer) for layer in first) > 2000
    assert first == second


def test_the_files_have_the_same_times_except_markers_of_deleted_files(both):
    first, second = both
    differ = {
        path
        for one, other in zip(first, second, strict=True)
        for path in one
        if one[path] != other[path]
    }
    assert {path for path in differ if MARK not in path} <= {MOUNTED}


def test_no_bytecode_depends_on_the_time_of_its_source(image):
    script = (
        "import pathlib, sys; pyc = list(pathlib.Path(sys.prefix).rglob('*.pyc'));"
        "print(len(pyc), {p.read_bytes()[4:8].hex() for p in pyc})"
    )
    told = run("docker", "run", "--rm", "--entrypoint", "python", image, "-c", script)
    count, _, kinds = told.strip().partition(" ")
    assert int(count) > 500
    assert kinds == "{'01000000'}"  # a hash of the source that is not compared
