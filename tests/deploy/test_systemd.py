"""The unit: systemd accepts it, and rates its hardening."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "systemd"
UNIT = "vllm-cache-exporter.service"
TEXT = (FOLDER / UNIT).read_text("utf-8")
PROGRAM = "/opt/vllm-cache-exporter/bin/vllm-cache-exporter"
DOCKER = f"{UNIT}.d/docker.conf"
LITTLE, WITH_DOCKER = 15, 20  # tenths, of systemd's 100


@pytest.fixture(scope="session")
def analyze(missing):
    program = shutil.which("systemd-analyze") or missing("no systemd-analyze: install systemd")

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "cat"},
        )

    return run


@pytest.fixture
def installed(tmp_path):
    """The unit with the path of a program that exists on this machine."""
    unit = tmp_path / UNIT
    unit.write_text(TEXT.replace(PROGRAM, shutil.which("true")))
    return unit


@pytest.fixture
def installed_with_docker(installed):
    drop_in = installed.parent / DOCKER
    drop_in.parent.mkdir()
    shutil.copy(FOLDER / f"{DOCKER}.example", drop_in)
    return installed


def test_systemd_accepts_the_unit(analyze, installed):
    done = analyze("verify", "--man=no", "--recursive-errors=no", installed)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_accepts_the_unit_with_the_file_for_docker(analyze, installed_with_docker):
    done = analyze("verify", "--man=no", "--recursive-errors=no", installed_with_docker)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("ProtectSystem=strict", "ProtectSystm=strict"), ("MemoryMax=512M", "MemoryMax=much")],
)
def test_systemd_finds_a_mistake_in_the_unit(analyze, installed, right, wrong):
    assert right in TEXT
    installed.write_text(installed.read_text().replace(right, wrong))
    done = analyze("verify", "--man=no", "--recursive-errors=no", installed)
    assert wrong.partition("=")[2 if "much" in wrong else 0] in done.stderr


def exposure(analyze, unit: Path, threshold: int) -> tuple[int, float]:
    done = analyze("security", "--offline=true", f"--threshold={threshold}", unit)
    return done.returncode, float(re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)[1])


def test_the_unit_is_well_confined(analyze, installed):
    code, level = exposure(analyze, installed, LITTLE)
    assert code == 0, level


def test_the_unit_with_docker_is_less_confined(analyze, installed_with_docker):
    code, level = exposure(analyze, installed_with_docker, WITH_DOCKER)
    assert code == 0, level


def test_the_rating_rises_without_the_hardening(analyze, installed):
    hardening = r"^(Protect|Private|Restrict|SystemCall|Capability|NoNew)\w+=.*\n"
    installed.write_text(re.sub(hardening, "", installed.read_text(), flags=re.MULTILINE))
    code, level = exposure(analyze, installed, LITTLE)
    assert code != 0
    assert level > 4


@pytest.mark.parametrize(
    "line",
    [
        "DynamicUser=yes",
        "ProtectSystem=strict",
        "PrivateTmp=yes",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "SystemCallFilter=@system-service",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "Restart=on-failure",
        "RestartPreventExitStatus=2",
    ],
)
def test_the_unit_has_the_line(line):
    assert line in TEXT.splitlines()


def test_the_credentials_of_the_unit_are_names_of_settings(tmp_path):
    names = re.findall(r"^LoadCredential=(\w+)$", TEXT, re.MULTILINE)
    assert len(names) == TEXT.count("LoadCredential=") == 2
    for name in names:
        (tmp_path / name).write_text("sk-canary")
    config = tmp_path / "exporter.toml"
    config.write_text(
        '[[targets]]\nurl = "http://e:8000"\n[[discovery.dns]]\nname = "r"\nhost = "replicas"\n'
    )
    command = [sys.executable, "-m", "exporter", "config", "--config", config]
    done = subprocess.run(
        [*command, "--secrets-dir", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("# secrets file") == 2
    assert "sk-canary" not in done.stdout


def test_the_unit_allows_reading_the_boot_time():
    """Without /proc/stat the client library has no families process_*."""
    assert "ProcSubset=" not in {line.partition("=")[0] + "=" for line in TEXT.splitlines()}
