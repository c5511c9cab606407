"""The commands of docs/systemd.md and docs/installation.md, run below another root.

They run to the letter, except that `/opt`, `/etc` and the home are folders of the test, that
`systemctl` only writes down what it is told, and that pip finds the packages of this environment
instead of asking an index.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from doc_pages import blocks

ROOT = Path(__file__).parents[2]
UNIT = "etc/systemd/system/vllm-cache-exporter.service"
CONFIG = "etc/vllm-cache-exporter/exporter.toml"
OWN = re.compile(
    r"_?vllm_cache_exporter|exporter$|pip|setuptools|_distutils|distutils|pkg_resources"
)


class Machine:
    """A folder that stands for the root of a machine, with a checkout in it."""

    def __init__(self, root: Path, checkout: Path) -> None:
        self.root, self.checkout = root, checkout
        self._programs = root / "programs"
        self._programs.mkdir()
        self._program("python3", f'exec {sys.executable} "$@"')
        self._program("systemctl", f'echo "$@" >> {root / "systemctl"}')
        self._program("git", "exit 0")
        self._packages = self._all_but_the_exporter()

    def _program(self, name: str, script: str) -> None:
        (self._programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (self._programs / name).chmod(0o755)

    def _all_but_the_exporter(self) -> Path:
        folder = self.root / "packages"
        folder.mkdir()
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if not OWN.match(path.name) and path.suffix != ".pth":
                (folder / path.name).symlink_to(path)
        return folder

    def has_packages(self, environment: str) -> None:
        """Let the environment that the docs make there see the locked packages."""
        folder = self.root / environment
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "packages.pth").write_text(f"{self._packages}\n")

    def run(self, script: str) -> str:
        """Run lines of the docs in the checkout. A line that fails ends them."""
        here = re.sub(r"(?<![\w.])/(opt|etc)/", rf"{self.root}/\1/", script)
        done = subprocess.run(
            ["sh", "-e"],
            input=here,
            cwd=self.checkout,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _environment(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("VLLM", "PIP", "EXPORT"))}
        return clean | {
            "PATH": f"{self._programs}:{os.environ['PATH']}",
            "HOME": str(self.root / "home"),
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # of a negative option: means that there is none
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_CONFIG_FILE": os.devnull,
        }

    def told_to_systemd(self) -> list[str]:
        file = self.root / "systemctl"
        lines = file.read_text().splitlines()
        file.unlink()
        return lines


@pytest.fixture
def machine(tmp_path, sources):
    shutil.copytree(ROOT / "requirements", sources / "requirements", dirs_exist_ok=True)
    root = tmp_path / "root"
    root.mkdir()
    return Machine(root, sources)


def shown(page: str, heading: str) -> str:
    """The `sh` blocks between a heading of a page and the next."""
    path = ROOT / "docs" / page
    lines = path.read_text("utf-8").splitlines()
    start = lines.index(heading) + 1
    ends = (n for n in range(start, len(lines)) if re.match("#{2,} ", lines[n]))
    end = next(ends, len(lines))
    return "\n".join(b.text for b in blocks(path) if start < b.line <= end and b.language == "sh")


def command_of_the_unit(machine: Machine) -> list[str]:
    line = re.search(r"^ExecStart=(.+)$", (machine.root / UNIT).read_text(), re.MULTILINE)[1]
    return shlex.split(re.sub(r"(?<![\w.])/(opt|etc)/", rf"{machine.root}/\1/", line))


def test_the_page_on_systemd_installs_upgrades_and_uninstalls(machine, free_ports):
    machine.has_packages("opt/vllm-cache-exporter")
    printed = machine.run(shown("systemd.md", "## Install"))
    assert "http://127.0.0.1:8000" in printed, "`config` prints the settings"
    assert machine.told_to_systemd() == ["daemon-reload", "enable --now vllm-cache-exporter"]
    assert (machine.root / CONFIG).stat().st_mode & 0o777 == 0o644
    assert starts(command_of_the_unit(machine), free_ports(1)[0])

    (machine.root / CONFIG).write_text('[[targets]]\nurl = "http://changed:1"\n')
    (package,) = (machine.root / "opt").rglob("site-packages/exporter")
    (package / "cli/main.py").write_text("the old version")
    machine.run(shown("systemd.md", "## Upgrade"))
    assert (package / "cli/main.py").read_bytes() == (ROOT / "exporter/cli/main.py").read_bytes()
    assert "changed" in (machine.root / CONFIG).read_text(), "an upgrade leaves the configuration"
    assert machine.told_to_systemd() == ["daemon-reload", "restart vllm-cache-exporter"]

    machine.run(shown("systemd.md", "## Uninstall"))
    left = {
        str(path.relative_to(machine.root))
        for folder in ("opt", "etc")
        for path in (machine.root / folder).rglob("*")
        if path.is_file()
    }
    assert left == {CONFIG}
    assert machine.told_to_systemd() == ["disable --now vllm-cache-exporter", "daemon-reload"]


def starts(command: list[str], port: int) -> bool:
    """Whether the daemon becomes ready with that command; only its port is another."""
    listen = {"VLLM_EXPORTER_LISTEN": f"127.0.0.1:{port}"}
    daemon = subprocess.Popen(command, env={"PATH": os.environ["PATH"], **listen})
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and daemon.poll() is None:
            with suppress(OSError):
                url = f"http://127.0.0.1:{port}/-/ready"
                with urllib.request.urlopen(url, timeout=5) as answer:
                    return answer.status == 200
            time.sleep(0.1)
        return False
    finally:
        daemon.terminate()
        daemon.wait(timeout=20)


def test_the_page_on_installation_makes_a_wheel_and_installs_it_with_charts(machine):
    machine.has_packages("home/vllm-cache-exporter")
    commands = shown("installation.md", "## A wheel")
    assert "-py3-none-any.whl[report]'" in commands, "pip leaves no trace of an extra"
    said = machine.run(commands)
    assert re.search(r"^vllm-cache-exporter \d+\.\d+\.\d+", said, re.MULTILINE)
    environment = machine.root / "home/vllm-cache-exporter"
    assert (environment / "share/vllm-cache-exporter/prometheus/rules/alerts.yml").is_file()
    (site,) = environment.glob("lib/python*/site-packages")
    own = {path.name for path in site.iterdir() if not OWN.match(path.name)}
    assert own == {"packages.pth"}
