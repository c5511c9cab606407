"""The daemon's pages of a fleet, before and after a reload."""

from __future__ import annotations

import json
import signal

import pytest

NOBODY = "http://127.0.0.1:1"  # refuses every connection
SETTINGS = """\
[metrics]
whole_page_targets = {most}
http_sd_address = "{address}"

[probe]
interval_seconds = 3600
tokens_per_hour = 0
max_cache_turnover_per_hour = 0
retention_gaps_seconds = []
isolation_interval_seconds = 0

[scrape]
interval_seconds = 0.5
timeout_seconds = 0.5
"""


@pytest.fixture
def configure(tmp_path):
    """Write the configuration. Returns its file."""
    file = tmp_path / "exporter.toml"

    def write(*names: str, most: int, address: str = "exporter.example:80"):
        targets = [f'[[targets]]\nname = "{name}"\nurl = "{NOBODY}"\n' for name in names]
        file.write_text(SETTINGS.format(most=most, address=address) + "".join(targets))
        return file

    return write


async def test_each_target_has_its_page_and_a_reload_changes_the_limit_of_the_whole_page(
    daemon, configure, tmp_path
):
    file = configure("a", "b", most=1)
    async with daemon(tmp_path / "log", "--config", str(file)) as at:

        async def page_of(name: str) -> str:
            status, text = await at.get(f"/metrics?target={name}")
            return text if status == 200 else ""

        async def scraped() -> bool:
            return 'loop="scrape:a"' in await page_of("a")

        await at.until("a was scraped", scraped)
        assert 'target="b"' not in await page_of("a")
        status, text = await at.get("/api/v1/http-sd")
        pages = json.loads(text)
        assert (status, [each["targets"] for each in pages]) == (200, [["exporter.example:80"]] * 2)
        assert [each["labels"]["target"] for each in pages] == ["a", "b"]
        assert await at.value("vllm_exporter_whole_page") == 0
        assert await at.value("vllm_exporter_targets") == 2
        assert "vllm_probe_sessions_total" not in (await at.get("/metrics"))[1]

        configure("a", "b", most=2)
        at.process.send_signal(signal.SIGHUP)

        async def whole() -> bool:
            return await at.value("vllm_exporter_whole_page") == 1

        await at.until("the pages are one", whole)
        assert 'vllm_probe_sessions_total{target="b"}' in (await at.get("/metrics"))[1]

        configure("a", most=2)
        at.process.send_signal(signal.SIGHUP)

        async def gone() -> bool:
            return (await at.get("/metrics?target=b"))[0] == 404

        await at.until("b is gone", gone)
        left = (await at.get("/metrics"))[1]
        assert 'target="b"' not in left
        assert ':b"' not in left  # and no loop of it
        assert len(json.loads((await at.get("/api/v1/http-sd"))[1])) == 1
        assert await at.stop() == 0


async def test_another_address_of_the_pages_needs_a_restart(daemon, configure, tmp_path):
    log, file = tmp_path / "log", configure("a", most=0)
    async with daemon(log, "--config", str(file)) as at:
        configure("a", most=0, address="elsewhere.example:80")
        at.process.send_signal(signal.SIGHUP)

        async def refused() -> bool:
            return await at.value("vllm_exporter_config_last_reload_successful") == 0

        await at.until("the reload was refused", refused)
        assert "metrics.http_sd_address: needs a restart to change" in log.read_text()
        assert await at.stop() == 0
