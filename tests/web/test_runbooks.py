"""The runbooks as pages of the exporter."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md"))


def links(html: str) -> set[str]:
    return set(re.findall(r'<a href="([^"]+)"', html))


@pytest.mark.parametrize("name", NAMES)
async def test_each_runbook_is_a_page_whose_links_lead_to_pages(client, name):
    answer = await client.get(f"/runbooks/{name}")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    html = await answer.text()
    heading = (ROOT / "docs" / "runbooks" / f"{name}.md").read_text("utf-8").splitlines()[0]
    assert f"<h1>{heading.removeprefix('# ')}</h1>" in html
    for link in links(html):
        led = await client.get(answer.url.join(type(answer.url)(link)).path)
        assert led.status == 200, link


async def test_the_list_links_to_every_runbook(client):
    answer = await client.get("/runbooks/")
    assert answer.status == 200
    assert {f"{name}.md" for name in NAMES} - {"README.md"} <= links(await answer.text())


async def test_tables_and_code_are_rendered_as_such(client):
    html = await (await client.get("/runbooks/start-failing")).text()
    assert "<td><code>gpu_toolkit_missing</code>" in html


async def test_the_policy_allows_the_style_of_the_page(client):
    answer = await client.get("/runbooks/cache-wedged")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    (style,) = re.findall("<style>(.*?)</style>", await answer.text(), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy


@pytest.mark.parametrize("name", ["nothing", "..%2Fmetrics", "%2e%2e%2fcompose", "README.md.md"])
async def test_an_unknown_runbook_is_not_found(client, name):
    assert (await client.get(f"/runbooks/{name}")).status == 404


def test_a_wheel_contains_the_runbooks(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    folder = "exporter/web/runbook_pages/"
    with zipfile.ZipFile(wheel) as opened:
        carried = {n.removeprefix(folder) for n in opened.namelist() if n.startswith(folder)}
    assert carried == {f"{name}.md" for name in NAMES}
