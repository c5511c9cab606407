"""Addresses become targets with stable names and URLs."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from hypothesis import given
from hypothesis import strategies as st

from exporter.config import DnsDiscovery
from exporter.discovery.targets.addresses import targets_at

ROUTABLE = st.ip_addresses(v=4) | st.ip_addresses(v=6).filter(
    lambda at: not at.is_link_local and at.ipv4_mapped is None
)


def dns(**facts) -> DnsDiscovery:
    return DnsDiscovery(**{"name": "vllm", "host": "vllm.example", "addresses": "both"} | facts)


@given(addresses=st.lists(ROUTABLE, unique=True, max_size=20), port=st.integers(1, 65535))
def test_each_address_has_its_own_target(addresses, port):
    targets = targets_at(map(str, addresses), dns(port=port, name="n" * 24))
    assert len({each.name for each in targets}) == len(addresses)
    reached = [urlsplit(each.base_url) for each in targets]
    assert {ipaddress.ip_address(each.hostname) for each in reached} == set(addresses)
    assert {each.port for each in reached} <= {port}


@given(addresses=st.lists(ROUTABLE, unique=True, max_size=20), data=st.data())
def test_order_and_repetitions_of_an_answer_change_nothing(addresses, data):
    again = data.draw(st.permutations([*addresses, *addresses[:3]]))
    assert targets_at(map(str, again), dns()) == targets_at(map(str, addresses), dns())


@given(addresses=st.lists(ROUTABLE, unique=True, max_size=20), gone=st.data())
def test_a_target_is_the_same_whatever_others_there_are(addresses, gone):
    alone = {each for one in addresses for each in targets_at([str(one)], dns())}
    assert alone == set(targets_at(map(str, addresses), dns()))


def test_names_and_urls_are_readable():
    found = targets_at(["fd00::7", "10.0.0.7"], dns(scheme="https", path="/llm", port=8001))
    assert [(each.name, each.base_url) for each in found] == [
        ("vllm-10.0.0.7", "https://10.0.0.7:8001/llm"),
        ("vllm-fd00--7", "https://[fd00::7]:8001/llm"),
    ]


def test_only_the_wanted_kind_of_address_counts():
    answer = ["10.0.0.7", "fd00::7"]
    assert [each.name for each in targets_at(answer, dns(addresses="ipv4"))] == ["vllm-10.0.0.7"]
    assert [each.name for each in targets_at(answer, dns(addresses="ipv6"))] == ["vllm-fd00--7"]


def test_an_ipv4_address_written_as_ipv6_is_that_ipv4_address():
    found = targets_at(["::ffff:10.0.0.7", "10.0.0.7"], dns())
    assert [each.name for each in found] == ["vllm-10.0.0.7"]


def test_a_link_local_address_does_not_count():
    assert targets_at(["fe80::1", "fe80::1%eth0"], dns()) == ()


def test_settings_of_the_name_apply_to_every_replica():
    settings = dns(
        model="m", api_key="secret", verify_tls=False, price_per_hour=2, currency="EUR", watts=700
    )
    (target,) = targets_at(["10.0.0.7"], settings)
    assert target.mode == "external"
    assert target.template() == settings.template()
    assert target.api_key.get_secret_value() == "secret"
