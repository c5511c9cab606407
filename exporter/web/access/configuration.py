"""Reads the web configuration: the file that sets TLS and passwords for the exporter's own pages.

The format is that of Prometheus's exporter toolkit, so that one file works for all exporters. A key
that this server does not support is an error, because the author of the file relies on it.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
)

from exporter.config.reading.mistakes import config_error, words_of
from exporter.config.reading.origin import Mistake
from exporter.config.schema.values import Section, mistake
from exporter.web.access.strict_yaml import StrictLoader

_LARGEST_FILE = 1 << 20  # bytes; a list of users is a few hundred
_COSTS = range(4, 15)  # 4 is bcrypt's minimum; at 14 one check of a password takes a second
_HASH = re.compile(r"\$2[aby]\$(?P<cost>[0-9]{2})\$[./A-Za-z0-9]{53}")
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_KINDS = {dict: "a table", list: "a list", str: "text", bool: "true or false", int: "a number"}

# Keys of the format that this server does not support, with advice.
_UNSUPPORTED = {
    "tls_server_config.cert": "is not supported: use cert_file",
    "tls_server_config.key": "is not supported: use key_file",
    "tls_server_config.client_ca": "is not supported: use client_ca_file",
    "tls_server_config.client_allowed_sans": "is not supported: set client_ca_file to an "
    "authority that signs only the allowed clients",
    "tls_server_config.curve_preferences": "is not supported: remove it",
    "rate_limit": "is not supported: remove it, or put a proxy in front",
}
# Go's names of cipher suites (the format uses them) to OpenSSL's. As in Go, those of TLS 1.3 are
# always on.
_SUITES = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
_SUITES_OF_TLS13 = frozenset(
    {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}
)


def _known_suite(value: str) -> str:
    if value not in _SUITES and value not in _SUITES_OF_TLS13:
        raise mistake(f"must be one of {', '.join([*_SUITES, *sorted(_SUITES_OF_TLS13)])}")
    return value


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "nothing" if value is None else "no text")


def _bcrypt_hash(value: Any) -> bytes:
    """The hash as bytes. An error names only the kind of the value, which can be a password."""
    found = _HASH.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        given = "other text" if isinstance(value, str) else _kind(value)
        raise mistake(
            'must be a bcrypt hash ("$2y$10$…", as `htpasswd -nBC 10 ""` makes it); '
            f"this is {given}"
        )
    if int(found["cost"]) not in _COSTS:
        raise mistake(f"must have a cost from {_COSTS[0]} to {_COSTS[-1]}, not {found['cost']}")
    return found[0].encode()


def _header_value(value: str) -> str:
    if re.fullmatch(r"[\x20-\x7e]*", value) is None:
        raise mistake("must be one line of ASCII")
    return value.strip()


_Header = Annotated[str, AfterValidator(_header_value)]


class _Tls(Section):
    cert_file: Annotated[str, Field(min_length=1)]
    key_file: Annotated[str, Field(min_length=1)]
    client_auth_type: Literal[
        "NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert", ""
    ] = ""
    client_ca_file: str = ""
    min_version: Literal["TLS12", "TLS13"] = "TLS12"
    max_version: Literal["TLS12", "TLS13"] = "TLS13"
    cipher_suites: tuple[Annotated[str, AfterValidator(_known_suite)], ...] = ()
    prefer_server_cipher_suites: bool = True

    @property
    def verifies_clients(self) -> bool:
        return self.client_auth_type not in ("", "NoClientCert")


class _Headers(Section):
    model_config = ConfigDict(**{**Section.model_config, "validate_by_name": False})

    csp: Annotated[_Header, Field(alias="Content-Security-Policy")] = ""
    frames: Annotated[Literal["", "deny", "sameorigin"], Field(alias="X-Frame-Options")] = ""
    types: Annotated[Literal["", "nosniff"], Field(alias="X-Content-Type-Options")] = ""
    xss: Annotated[_Header, Field(alias="X-XSS-Protection")] = ""
    hsts: Annotated[_Header, Field(alias="Strict-Transport-Security")] = ""


class _Http(Section):
    http2: bool = False
    headers: _Headers = _Headers()


def _not_empty(value: Any) -> Any:
    if value is None:
        raise mistake("must be a table")
    return value


class _File(Section):
    model_config = ConfigDict(**{**Section.model_config, "validate_default": False})

    tls_server_config: Annotated[_Tls | None, BeforeValidator(_not_empty)] = None
    http_server_config: _Http = _Http()
    basic_auth_users: Mapping[str, Annotated[bytes, PlainValidator(_bcrypt_hash)]] = Field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The checked contents of the file.

    `users` maps a name to its bcrypt hash; without users the pages need no password. `files` are
    this file and those that it names. `http2` is what the file says; this server speaks HTTP/1.1.
    """

    file: Path
    users: Mapping[bytes, bytes] = field(repr=False)
    tls: ssl.SSLContext | None
    headers: Mapping[str, str]
    files: tuple[Path, ...]
    http2: bool = False

    @property
    def authenticates(self) -> bool:
        """Whether every client needs a password or a certificate."""
        certificate = self.tls is not None and self.tls.verify_mode is ssl.CERT_REQUIRED
        return bool(self.users) or certificate


def read_web_config(file: Path) -> WebConfig:
    """Read and check the file and its certificates. Raises `ConfigError` with every mistake.

    Relative paths start at the folder of the file. No message quotes a value of the file.
    """
    tree, mistakes = _read(file)
    checked = None if tree is None else _checked(tree, mistakes)
    tls: ssl.SSLContext | None = None
    files: tuple[Path, ...] = (file,)
    if checked is not None and checked.tls_server_config is not None:
        named = _certificates(checked.tls_server_config, file.absolute().parent)
        tls = _context(checked.tls_server_config, named, mistakes)
        files = (file, *named.values())
    if mistakes or checked is None:
        raise config_error([Mistake(str(file), each.message, each.key) for each in mistakes])
    headers = checked.http_server_config.headers.model_dump(by_alias=True)
    return WebConfig(
        file=file,
        users=MappingProxyType(
            {name.encode(): each for name, each in checked.basic_auth_users.items()}
        ),
        tls=tls,
        headers=MappingProxyType({name: value for name, value in headers.items() if value}),
        files=files,
        http2=checked.http_server_config.http2,
    )


def _read(file: Path) -> tuple[dict[str, Any] | None, list[Mistake]]:
    try:
        with file.open("rb") as opened:
            page = opened.read(_LARGEST_FILE + 1)
    except OSError as error:
        return None, [Mistake("", f"cannot be read: {error.strerror}")]
    if len(page) > _LARGEST_FILE:
        return None, [Mistake("", f"is larger than {_LARGEST_FILE} bytes")]
    try:
        tree = yaml.load(page.decode(), Loader=StrictLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        # Only the place: the parser's own message quotes the line, which can hold a secret.
        mark = error.problem_mark
        where = "" if mark is None else f": line {mark.line + 1}, column {mark.column + 1}"
        return None, [Mistake("", f"is not YAML, or has a duplicate key{where}")]
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError):
        return None, [Mistake("", "is not YAML in UTF-8")]
    if not tree:
        # A half-written or emptied file must not remove the protection.
        return None, [Mistake("", "is empty: it must set tls_server_config or basic_auth_users")]
    if not isinstance(tree, dict):
        return None, [Mistake("", f"must be a table of settings, not {_kind(tree)}")]
    return tree, []


def _checked(tree: dict[str, Any], mistakes: list[Mistake]) -> _File | None:
    mistakes += _wrong_names(tree.get("basic_auth_users"))
    try:
        checked = _File(**{str(name): value for name, value in tree.items()})
    except ValidationError as error:
        mistakes += [_mistake(line) for line in error.errors(include_url=False)]
        return None
    mistakes += _conflicts(checked.tls_server_config)
    return checked


def _wrong_names(users: Any) -> list[Mistake]:
    names = list(users) if isinstance(users, dict) else []
    return [
        Mistake("", "must be a name: text, not empty and without a colon", "basic_auth_users")
        for name in names
        if not isinstance(name, str) or not name or ":" in name
    ]


def _conflicts(tls: _Tls | None) -> list[Mistake]:
    """Keys that contradict each other."""
    if tls is None:
        return []
    found = []
    if tls.min_version > tls.max_version:
        found.append(Mistake("", "must not be above max_version", "tls_server_config.min_version"))
    if tls.client_ca_file and not tls.verifies_clients:
        words = 'has no effect without client_auth_type = "RequireAndVerifyClientCert"'
        found.append(Mistake("", words, "tls_server_config.client_ca_file"))
    if tls.verifies_clients and not tls.client_ca_file:
        words = f"is required by client_auth_type = {tls.client_auth_type}"
        found.append(Mistake("", words, "tls_server_config.client_ca_file"))
    return found


def _mistake(line: Any) -> Mistake:
    # A key can be any text in the wrong place, even a password hash: show only plain names.
    parts = [
        str(part) if isinstance(part, int) or _NAME.fullmatch(part) else "…"
        for part in line["loc"]
        if part != "[key]"
    ]
    key = ".".join(parts)
    if key in _UNSUPPORTED:
        return Mistake("", _UNSUPPORTED[key], key)
    if line["type"] == "extra_forbidden":
        return Mistake("", f"unknown key; allowed here: {', '.join(_allowed(parts[:-1]))}", key)
    if line["type"] == "missing":
        return Mistake("", "is required", key)
    return Mistake("", words_of(line), key)


def _allowed(place: list[str]) -> list[str]:
    sections: Mapping[str, type[Section]] = {
        "": _File,
        "tls_server_config": _Tls,
        "http_server_config": _Http,
        "http_server_config.headers": _Headers,
    }
    section = sections[".".join(place)]
    return [each.alias or name for name, each in section.model_fields.items()]


def _certificates(tls: _Tls, folder: Path) -> dict[str, Path]:
    """The files that the section names, by their key."""
    named = {key: getattr(tls, key) for key in ("cert_file", "key_file", "client_ca_file")}
    return {key: folder / name for key, name in named.items() if name}


def _context(
    tls: _Tls, files: Mapping[str, Path], mistakes: list[Mistake]
) -> ssl.SSLContext | None:
    mistakes += [
        Mistake("", f"cannot be read: {words}", f"tls_server_config.{name}")
        for name, path in files.items()
        if (words := _unreadable(path))
    ]
    if mistakes:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    versions = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
    context.minimum_version = versions[tls.min_version]
    context.maximum_version = versions[tls.max_version]
    context.set_alpn_protocols(["http/1.1"])
    if tls.prefer_server_cipher_suites:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    suites = [_SUITES[name] for name in tls.cipher_suites if name in _SUITES]
    if suites:
        context.set_ciphers(":".join(suites))
    if tls.verifies_clients:
        required = tls.client_auth_type == "RequireAndVerifyClientCert"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    mistakes += _load(context, files)
    return None if mistakes else context


def _load(context: ssl.SSLContext, files: Mapping[str, Path]) -> list[Mistake]:
    found = []
    try:
        # Without this, OpenSSL asks on the terminal for the password of an encrypted key.
        context.load_cert_chain(files["cert_file"], files["key_file"], password=lambda: "")
    except (ssl.SSLError, OSError, ValueError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            words, key = "must be the key of the certificate in cert_file", ".key_file"
        else:
            words, key = "cert_file and key_file must be a certificate and its key in PEM", ""
        found.append(Mistake("", f"{words}, the key not encrypted", f"tls_server_config{key}"))
    if "client_ca_file" in files:
        try:
            context.load_verify_locations(cafile=files["client_ca_file"])
        except (ssl.SSLError, OSError):
            words = "must be a file of certificates in PEM"
            found.append(Mistake("", words, "tls_server_config.client_ca_file"))
    return found


def _unreadable(path: Path) -> str | None:
    try:
        with path.open("rb"):
            return None
    except OSError as error:
        return error.strerror or "no reason given"
