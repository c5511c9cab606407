"""The keys of the web configuration's file, and the messages for mistakes in it."""

from __future__ import annotations

import json
import ssl

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web_files import CERTIFICATES, HASH, TLS, USERS, write

from exporter.errors import ConfigError
from exporter.web.access.configuration import read_web_config


@pytest.fixture
def read(tmp_path):
    return lambda text: read_web_config(write(tmp_path, text))


@pytest.fixture
def mistakes(read, tmp_path):
    def run(text):
        with pytest.raises(ConfigError) as caught:
            read(text)
        lines = str(caught.value).splitlines()[1:]
        return [line.strip().removeprefix(f"{tmp_path}/web.yml: ") for line in lines]

    return run


def test_users_and_headers_are_read(read):
    config = read(
        USERS
        + "http_server_config:\n  headers:\n    X-Frame-Options: deny\n    X-XSS-Protection: ''"
    )
    assert config.users == {b"alice": HASH.encode()}
    assert config.headers == {"X-Frame-Options": "deny"}
    assert config.tls is None
    assert HASH not in repr(config)


def test_paths_of_certificates_start_at_the_folder_of_the_file(read, tmp_path):
    config = read(TLS)
    assert config.tls.minimum_version is ssl.TLSVersion.TLSv1_2
    assert config.tls.verify_mode is ssl.CERT_NONE
    assert config.files == tuple(
        tmp_path / name for name in ("web.yml", "server.pem", "server.key")
    )


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("RequireAndVerifyClientCert", ssl.CERT_REQUIRED),
        ("VerifyClientCertIfGiven", ssl.CERT_OPTIONAL),
    ],
)
def test_a_certificate_of_clients_is_required(read, kind, mode):
    config = read(f"{TLS}  client_auth_type: {kind}\n  client_ca_file: {CERTIFICATES}/ca.pem\n")
    assert config.tls.verify_mode is mode
    assert CERTIFICATES / "ca.pem" in config.files
    assert config.authenticates == (kind == "RequireAndVerifyClientCert")


def test_versions_and_suites_are_applied(read):
    suite = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
    config = read(
        f"{TLS}  max_version: TLS12\n  cipher_suites: [{suite}, TLS_AES_128_GCM_SHA256]\n"
    )
    assert config.tls.maximum_version is ssl.TLSVersion.TLSv1_2
    below_13 = [each["name"] for each in config.tls.get_ciphers() if each["protocol"] != "TLSv1.3"]
    assert below_13 == ["ECDHE-ECDSA-AES256-GCM-SHA384"]


def test_http2_is_read_although_this_server_does_not_support_it(read):
    assert read(USERS).http2 is False
    assert read(USERS + "http_server_config:\n  http2: true\n").http2 is True


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty: it must set tls_server_config or basic_auth_users"),
        ("# later\n", "is empty: it must set tls_server_config or basic_auth_users"),
        ("- a", "must be a table of settings, not a list"),
        ("a: [", "is not YAML, or has a duplicate key: line 1, column 5"),
        (USERS + "  alice: again\n", "is not YAML, or has a duplicate key: line 3, column 3"),
        ("a: !!python/name:os.system x", "is not YAML, or has a duplicate key: line 1, column 4"),
        # PyYAML itself raises AttributeError, KeyError and IndexError for these.
        ("!!timestamp x: 1", "is not YAML, or has a duplicate key: line 1, column 1"),
        ("a: !!bool x", "is not YAML, or has a duplicate key: line 1, column 4"),
        ("a: !!int ''", "is not YAML, or has a duplicate key: line 1, column 4"),
        ("a: 2001-02-31", "is not YAML, or has a duplicate key: line 1, column 4"),
        (
            "user: x",
            "user: unknown key; allowed here: tls_server_config, http_server_config, basic",
        ),
        ("tls_server_config:", "tls_server_config: must be a table"),
        ("tls_server_config:\n  key_file: server.key", "tls_server_config.cert_file: is required"),
        (TLS + "  min_version: TLS11", 'tls_server_config.min_version: must be "TLS12" or "TLS13"'),
        (
            TLS + "  min_version: TLS13\n  max_version: TLS12",
            "tls_server_config.min_version: must not be above max_version",
        ),
        (TLS + "  cipher_suites: [RC4]", "tls_server_config.cipher_suites.0: must be one of TLS_"),
        (
            TLS + "  client_auth_type: RequestClientCert",
            "tls_server_config.client_auth_type: must ",
        ),
        (
            TLS + "  client_auth_type: RequireAndVerifyClientCert",
            "tls_server_config.client_ca_file: is required by client_auth_type",
        ),
        (TLS + "  client_ca_file: server.pem", "tls_server_config.client_ca_file: has no effect"),
        (
            TLS + "  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: server.key",
            "tls_server_config.client_ca_file: must be a file of certificates in PEM",
        ),
        (TLS + "  cert: x", "tls_server_config.cert: is not supported: use cert_file"),
        (
            TLS + "  client_allowed_sans: [a]",
            "tls_server_config.client_allowed_sans: is not supported",
        ),
        (USERS + "rate_limit: {burst: 1}", "rate_limit: is not supported"),
        (
            TLS.replace("server.pem", "nowhere.pem"),
            "tls_server_config.cert_file: cannot be read: No such file or directory",
        ),
        (
            TLS.replace("server.pem", f"{CERTIFICATES}/second.pem"),
            "tls_server_config.key_file: must be the key of the certificate in cert_file",
        ),
        (
            TLS.replace("server.key", f"{CERTIFICATES}/encrypted.key"),
            "tls_server_config: cert_file and key_file must be a certificate and its key in PEM",
        ),
        (
            "http_server_config: {headers: {X-Powered-By: me}}",
            "http_server_config.headers.X-Powered-By: unknown key; allowed here: Content-Security-P",
        ),
        (
            "http_server_config: {headers: {X-Frame-Options: never}}",
            "http_server_config.headers.X-Frame-Options: must be ",
        ),
        (
            'http_server_config: {headers: {X-XSS-Protection: "a\\r\\nSet-Cookie: b"}}',
            "http_server_config.headers.X-XSS-Protection: must be one line of ASCII",
        ),
        (
            "basic_auth_users: {'a:b': x}",
            "basic_auth_users: must be a name: text, not empty and without a colon",
        ),
        (
            f"basic_auth_users: {{alice: {HASH.replace('$04$', '$31$')}}}",
            "basic_auth_users.alice: must have a cost from 4 to 14, not 31",
        ),
    ],
)
def test_a_mistake_is_reported_with_its_key_and_the_allowed_values(mistakes, text, said):
    assert mistakes(text)[0].startswith(said)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("hunter2", "other text"),
        ("12", "a number"),
        ("", "nothing"),
        ("[a]", "a list"),
    ],
)
def test_a_bad_hash_is_named_by_its_kind(mistakes, value, kind):
    [said] = mistakes(f"basic_auth_users:\n  alice: {value}\n")
    assert said.startswith("basic_auth_users.alice: must be a bcrypt hash")
    assert said.endswith(f"this is {kind}")


def test_all_mistakes_are_reported_together(mistakes):
    said = mistakes("rate_limit: 1\nnonsense: 1\nbasic_auth_users: {a: x, b: y}\n")
    assert [line.split(":")[0] for line in said] == [
        *("basic_auth_users.a", "basic_auth_users.b", "rate_limit", "nonsense")
    ]


def test_a_missing_file_is_a_mistake(tmp_path):
    with pytest.raises(ConfigError, match=r"web\.yml: cannot be read: No such file or directory"):
        read_web_config(tmp_path / "web.yml")


CANARY = "canary/5f3a"


@pytest.mark.parametrize(
    "text",
    [
        f"basic_auth_users: {{alice: {CANARY}}}",
        f"basic_auth_users: {{alice: [{CANARY}]}}",
        f"basic_auth_users: {{{CANARY}: alice}}",
        f"{CANARY}: alice",
        f"basic_auth_users: {CANARY}",
        f"basic_auth_users: {{alice: *{CANARY}}}",
        f"basic_auth_users: {{alice: !{CANARY} x}}",
        f"basic_auth_users: {{alice: '{CANARY}",
        f"{CANARY}: 1\n{CANARY}: 2",
        CANARY,
        f"http_server_config: {{headers: {{X-XSS-Protection: 'é {CANARY}'}}}}",
        f"http_server_config: {{headers: {{{CANARY}: x}}}}",
        f"tls_server_config: {{cert_file: x, key_file: y, key: {CANARY}}}",
        f"tls_server_config: {{cert_file: x, key_file: {CANARY}}}",
    ],
)
def test_no_message_shows_a_possible_secret(mistakes, text):
    assert CANARY not in "".join(mistakes(text))


yaml_like = st.recursive(
    st.sampled_from(["canary", 1, True, None, HASH]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["tls_server_config", "basic_auth_users", "http_server_config", "headers", "alice"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


def said_of(file):
    """The words of the error, "" where there is none."""
    try:
        read_web_config(file)
    except ConfigError as error:
        return str(error)
    return ""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(tree=yaml_like)
def test_a_file_of_any_shape_is_read_or_refused_with_a_message(tmp_path, tree):
    said = said_of(write(tmp_path, json.dumps(tree), certificate=None))  # JSON is YAML
    assert "canary" not in said
    assert HASH not in said
