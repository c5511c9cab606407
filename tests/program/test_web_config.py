"""The daemon with TLS and a password, from its command line to its answers."""

from __future__ import annotations

import asyncio
import base64
import ssl
import urllib.error
import urllib.request

from web_files import CERTIFICATES, PASSWORD, TLS, USERS, install, write

ALICE = "Basic " + base64.b64encode(f"alice:{PASSWORD}".encode()).decode()


def look(url: str, path: str, authorization: str | None = ALICE) -> tuple[int, str]:
    """Status and body over verified TLS; status 0 without an answer."""
    context = ssl.create_default_context(cafile=CERTIFICATES / "ca.pem")
    headers = {} if authorization is None else {"Authorization": authorization}
    request = urllib.request.Request(url.replace("http://", "https://") + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.read().decode()
    except OSError:
        return 0, ""


def subject(url: str) -> str:
    host, _, port = url.removeprefix("http://").partition(":")
    pem = ssl.get_server_certificate((host, int(port)), ca_certs=CERTIFICATES / "ca.pem")
    return next(name for name in ("first", "second") if pem in certificate(name))


def certificate(name: str) -> str:
    return (CERTIFICATES / f"{name}.pem").read_text(encoding="utf-8")


async def test_tls_and_passwords_protect_every_page_and_are_updated(daemon, tmp_path):
    file = write(tmp_path, TLS + USERS)
    arguments = ("--web.config.file", str(file))
    async with daemon(tmp_path / "log", *arguments, VLLM_HOST="http://127.0.0.1:9") as at:
        assert (await asyncio.to_thread(look, at.url, "/metrics", None))[0] == 401
        status, page = await asyncio.to_thread(look, at.url, "/metrics")
        assert status == 200
        assert "vllm_exporter_build_info" in page
        assert (await at.get("/metrics"))[0] == 0  # no answer without TLS
        assert await asyncio.to_thread(subject, at.url) == "first"
        install(tmp_path, "second")

        async def renewed():
            return await asyncio.to_thread(subject, at.url) == "second"

        await at.until("the new certificate is shown", renewed)
        assert (
            "vllm_exporter_web_config_in_force 1.0"
            in (await asyncio.to_thread(look, at.url, "/metrics"))[1]
        )
        assert await at.stop() == 0
    log = (tmp_path / "log").read_text()
    assert "https://127.0.0.1:" in log
    assert "web_config.read" in log
