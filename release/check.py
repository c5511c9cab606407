"""Builds a release, installs it as a user would, and runs its demo.

Run by `make release-check`. Prints each step, and stops at the first failure with exit code 1.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
import venv
from pathlib import Path

from version import version as written_version

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
PATIENCE = 60.0  # seconds until the demo has measured a session; it takes five
MEASURED = re.compile(r'^vllm_probe_turn_hit_ratio\{[^}]*turn="8"[^}]*\} 0\.\d+', re.MULTILINE)


def main() -> None:
    """Build, install into an empty environment, run the demo."""
    version = written_version()
    if f"\n## {version}" not in (ROOT / "CHANGELOG.md").read_text():
        print(f"note: CHANGELOG.md has no section for {version} yet")
    wheel, sdist = _build(version)
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    if not any(name.endswith("exporter/web/page/templates/status.html") for name in names):
        raise SystemExit(f"{sdist.name} lacks the page's template")
    _list_packages()
    program = _install(wheel)
    said = subprocess.run([program, "--version"], text=True, capture_output=True, check=True)
    if said.stdout.split()[1] != version:
        raise SystemExit(f"the wheel says version {said.stdout.strip()!r}, not {version}")
    _see_demo(program)
    print(f"{wheel.name}, {sdist.name} and the SBOM are in {DIST}")


def _build(version: str) -> tuple[Path, Path]:
    print("building")
    shutil.rmtree(DIST, ignore_errors=True)
    hatchling = [sys.executable, "-m", "hatchling", "build", "--directory", str(DIST)]
    subprocess.run(hatchling, cwd=ROOT, check=True)
    name = f"vllm_cache_exporter-{version}"
    return DIST / f"{name}-py3-none-any.whl", DIST / f"{name}.tar.gz"


def _list_packages() -> None:
    """Write the SBOM beside the wheel; its tool has a separate environment."""
    print("listing the packages")
    tools = ROOT / ".venv-release/bin/python"
    subprocess.run([tools, ROOT / "release/sbom.py"], check=True)


def _install(wheel: Path) -> Path:
    """The program, in an environment with only the locked packages and the wheel."""
    print("installing the wheel into an empty environment")
    environment = DIST / "environment"
    venv.create(environment, with_pip=True)
    pip = [environment / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    locked = ["--require-hashes", "-r", ROOT / "requirements/run.txt"]
    subprocess.run([*pip, *locked], check=True)
    subprocess.run([*pip, "--no-deps", wheel], check=True)
    return environment / "bin/vllm-cache-exporter"


def _see_demo(program: Path) -> None:
    """Run the demo away from the sources until a whole session is on its /metrics."""
    print("running its demo")
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    demo = subprocess.Popen([program, "demo", "--listen", listen], cwd=DIST)
    try:
        deadline = time.monotonic() + PATIENCE
        while not MEASURED.search(_page(f"http://{listen}/metrics")):
            if demo.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the demo of the wheel measured no session")
            time.sleep(0.5)
    finally:
        demo.terminate()
        code = demo.wait(timeout=10)
    if code != 0:
        raise SystemExit(f"the demo ended with exit code {code}")


def _page(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""


if __name__ == "__main__":
    main()
