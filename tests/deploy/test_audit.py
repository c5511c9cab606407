"""The audit of the lock, against a service with OSV's API: it passes only after an answer."""

from __future__ import annotations

import json
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCK = (
    "aiohttp==3.14.5 \\\n    --hash=sha256:" + "a" * 64 + "\n"
    "pywin32==311 ; sys_platform == 'win32' \\\n    --hash=sha256:" + "b" * 64 + "\n"
    "yarl==1.25.1 \\\n    --hash=sha256:" + "c" * 64 + "\n"
)
KNOWN = {
    "id": "PYSEC-2099-1",
    "modified": "2099-01-01T00:00:00Z",
    "published": "2099-01-01T00:00:00Z",
    "summary": "made up for a test",
    "affected": [
        {
            "package": {"name": "yarl", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.25.2"}]}],
        }
    ],
}


class Service(BaseHTTPRequestHandler):
    """Answers with the server's `known` vulnerabilities, and records the packages asked for."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = asked["package"]["name"]
        self.server.asked.append((name, asked["version"]))
        body = json.dumps(self.server.known.get(name, {})).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Do not log requests."""


@pytest.fixture
def service():
    with HTTPServer(("127.0.0.1", 0), Service) as server:
        server.asked, server.known, server.status = [], {}, 200
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def audit(release_tools, tmp_path):
    lock = tmp_path / "lock.txt"
    lock.write_text(LOCK)

    def run(url: str) -> subprocess.CompletedProcess[str]:
        script = [release_tools / "python", ROOT / "release" / "audit.py"]
        command = [*script, "--lock", lock, "--service", url]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    return run


def url_of(service) -> str:
    return f"http://127.0.0.1:{service.server_port}/v1/query"


def test_the_audit_asks_for_each_installed_package_and_passes_without_findings(audit, service):
    done = audit(url_of(service))
    assert (done.returncode, done.stdout) == (
        0,
        "2 packages asked for, 0 with a known vulnerability\n",
    ), done.stderr
    assert sorted(service.asked) == [("aiohttp", "3.14.5"), ("yarl", "1.25.1")]


def test_the_audit_fails_and_names_known_vulnerabilities(audit, service):
    service.known["yarl"] = {"vulns": [KNOWN]}
    done = audit(url_of(service))
    assert done.returncode == 1, done.stderr
    assert "yarl 1.25.1: PYSEC-2099-1, fixed in 1.25.2" in done.stdout


@pytest.mark.parametrize("status", [403, 500])
def test_the_audit_does_not_pass_if_the_service_answers_with_an_error(audit, service, status):
    service.status = status
    done = audit(url_of(service))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("no audit: the service could not be asked: ")


def test_the_audit_does_not_pass_if_the_service_does_not_answer(audit, service):
    service.shutdown()
    service.server_close()
    done = audit(url_of(service))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("no audit: the service could not be asked: ")
    assert "refused" in done.stderr
