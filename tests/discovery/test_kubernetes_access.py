"""How the exporter reaches the API: the service account of its pod, or settings."""

from __future__ import annotations

import shutil
import ssl

import pytest
from fake_kubernetes import FakeKubernetes, Refused, pod_object
from web_files import CERTIFICATES

from exporter.clock import SystemClock
from exporter.config import KubernetesDiscovery
from exporter.discovery.kubernetes import access, api
from exporter.discovery.kubernetes.pod_source import KubernetesSource
from exporter.discovery.targets.records import DiscoveryError, DiscoveryFailure


@pytest.fixture
async def cluster():
    """With TLS, as every real one."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATES / "first.pem", CERTIFICATES / "first.key")
    at = FakeKubernetes()
    await at.start(context)
    at.tokens = {"token-1"}
    await at.put(pod_object("a"))
    yield at
    await at.stop()


@pytest.fixture
def account(tmp_path, monkeypatch, cluster):
    """The mounted service account, and the variables of a pod."""
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text("token-1")
    (folder / "namespace").write_text("vllm")
    shutil.copy(CERTIFICATES / "ca.pem", folder / "ca.crt")
    monkeypatch.setattr(access, "SERVICE_ACCOUNT", folder)
    host, port = cluster.url.removeprefix("https://").split(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    return folder


async def names(**settings) -> list[str]:
    source = KubernetesSource(KubernetesDiscovery(**settings), SystemClock())
    try:
        return [each.name for each in (await source.query()).targets]
    finally:
        await source.close()


async def failure(**settings) -> DiscoveryError:
    with pytest.raises(DiscoveryError) as error:
        await names(**settings)
    return error.value


async def test_a_pod_uses_its_service_account_and_its_own_namespace(cluster, account):
    await cluster.put(pod_object("b", "elsewhere"))
    assert await names() == ["vllm.a"]


async def test_a_new_token_is_used_for_the_next_request(cluster, account, monkeypatch):
    used = api.KubernetesApi(KubernetesDiscovery())
    await used.list_pods("vllm")
    cluster.tokens = {"token-2"}
    with pytest.raises(DiscoveryError, match="HTTP 401"):
        await used.list_pods("vllm")
    (account / "token").write_text("token-2")
    assert (await used.list_pods("vllm")).pods.keys() == {"vllm/a"}
    await used.close()


async def test_new_certificates_are_used_for_the_next_request(cluster, account):
    used = api.KubernetesApi(KubernetesDiscovery())
    shutil.copy(CERTIFICATES / "client.pem", account / "ca.crt")
    with pytest.raises(DiscoveryError) as error:
        await used.list_pods("vllm")
    assert error.value.reason == DiscoveryFailure.UNREACHABLE
    assert "CERTIFICATE_VERIFY_FAILED" in error.value.detail
    shutil.copy(CERTIFICATES / "ca.pem", account / "ca.crt")
    await used.list_pods("vllm")
    await used.close()


async def test_settings_name_the_api_its_token_and_its_certificates(cluster, tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    (tmp_path / "token").write_text("token-1\n")
    found = await names(
        namespaces=["vllm"],
        api_url=cluster.url,
        api_token_file=tmp_path / "token",
        api_ca_file=CERTIFICATES / "ca.pem",
    )
    assert found == ["vllm.a"]


async def test_a_refused_token_is_reported_with_its_file_and_never_shown(cluster, account):
    (account / "token").write_text("sk-canary")
    error = await failure()
    assert error.reason == DiscoveryFailure.PERMISSION_DENIED
    assert error.detail == (
        f"HTTP 401: Unauthorized: it does not accept the token of {account / 'token'}"
    )


async def test_a_token_that_the_api_repeats_is_masked(cluster, account, monkeypatch):
    (account / "token").write_text("sk-canary")
    cluster.tokens = None

    def echo(*_):
        raise Refused(500, "InternalError", "token sk-canary is odd")

    monkeypatch.setattr(cluster, "_list", echo)
    assert (await failure()).detail == "HTTP 500: token *** is odd"


async def test_without_a_token_it_is_said_that_none_was_sent(cluster):
    error = await failure(
        namespaces=["vllm"], api_url=cluster.url, api_ca_file=CERTIFICATES / "ca.pem"
    )
    assert error.detail == "HTTP 401: Unauthorized: no token was sent; set api_token_file"
    assert all("Authorization" not in each for each in cluster.headers)


@pytest.mark.parametrize("lost", ["token", "ca.crt", "namespace"])
async def test_a_pod_without_a_mounted_service_account_is_told_to_mount_it(account, lost):
    (account / lost).unlink()
    error = await failure()
    assert error.reason == DiscoveryFailure.FAILED
    assert error.detail == (
        "no service account of a pod, so the exporter cannot use the cluster's API; mount it "
        f"(automountServiceAccountToken: true): {account / lost}: No such file or directory"
    )


async def test_outside_a_pod_api_url_is_asked_for(account, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    error = await failure()
    assert error.reason == DiscoveryFailure.FAILED
    assert error.detail.endswith("KUBERNETES_SERVICE_HOST is not set; elsewhere set api_url")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe"])
async def test_an_unusable_token_file_is_named(account, content):
    (account / "token").write_bytes(content)
    assert str(account / "token") in (await failure()).detail


async def test_unusable_certificates_are_reported(account):
    (account / "ca.crt").write_text("no certificate")
    assert (await failure()).detail.startswith("the certificates of the API cannot be used")


async def test_the_address_of_an_ipv6_cluster_is_bracketed(account, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    assert access.access_of(KubernetesDiscovery()).url == "https://[fd00::1]:443"
