"""The types of setting values. Each check says what is allowed."""

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ErrorType

from exporter.model.engine import Adapters

_BINARY_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_PORTS = range(65536)
_KNOWN_KINDS = frozenset(get_args(ErrorType))


class Section(BaseModel):
    """A group of settings: frozen, and an unknown key is a mistake."""

    model_config = ConfigDict(
        frozen=True,
        use_attribute_docstrings=True,  # the texts of --help and of the reference
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,  # an input can be a secret
        validate_default=True,
    )


class InConfigFolder:
    """Marks a path that is relative to the folder of the file that sets it."""

    def marks(self, value: str) -> bool:
        """Whether `value` is such a path."""
        return bool(value)


class NameOrInConfigFolder(InConfigFolder):
    """Marks a name or a path. A path contains a slash or ends in `.json` or `.jsonl`."""

    def marks(self, value: str) -> bool:
        return "/" in value or value.endswith((".json", ".jsonl"))


def mistake(message: str) -> PydanticCustomError:
    """The error of a check; `message` says what is allowed ("must be …")."""
    return PydanticCustomError("mistake", message)


def mistake_at(message: str, *place: str | int) -> InitErrorDetails:
    """A mistake for `check_with`; `place` is the key inside the checked value."""
    return InitErrorDetails(type=mistake(message), loc=place, input=None)


def check_with(
    handler: ValidatorFunctionWrapHandler, value: Any, more: Sequence[InitErrorDetails]
) -> Any:
    """Validate `value`, and report its mistakes together with `more`."""
    mistakes = list(more)
    try:
        checked = handler(value)
    except ValidationError as error:
        mistakes = [_again(line) for line in error.errors(include_url=False)] + mistakes
    if mistakes:
        raise ValidationError.from_exception_data("settings", mistakes)
    return checked


def _again(line: Any) -> InitErrorDetails:
    kind = line["type"]
    if kind not in _KNOWN_KINDS:
        kind = PydanticCustomError(kind, line["msg"])
    details = InitErrorDetails(type=kind, loc=line["loc"], input=line["input"])
    if "ctx" in line:
        details["ctx"] = line["ctx"]
    return details


def distinct_names(section: type[Section], others: str) -> WrapValidator:
    """Checks that no two sections of a list have one name. `others` is the plural for a message."""
    default = section.model_fields["name"].default

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        names = [
            each.get("name", default) if isinstance(each, dict) else getattr(each, "name", None)
            for each in (value if isinstance(value, list | tuple) else ())
        ]
        first: dict[str, int] = {}
        doubles = [
            mistake_at(f"must differ from the names of the other {others}", place, "name")
            for place, name in enumerate(names)
            if isinstance(name, str) and first.setdefault(name, place) < place
        ]
        return check_with(handler, value, doubles)

    return WrapValidator(check)


def keys_of(value: Any) -> list[str]:
    """The set keys, sorted, of a section or of a table that is not validated yet."""
    if isinstance(value, Section):
        return sorted(value.model_fields_set)
    return (
        sorted(each for each in value if isinstance(each, str)) if isinstance(value, dict) else []
    )


def _not_a_bool(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic would read true as 1
        raise mistake("must be a number")
    return value


_Number = BeforeValidator(_not_a_bool)
Seconds = Annotated[float, _Number, Field(gt=0)]
PositiveNumber = Annotated[float, _Number, Field(gt=0)]
SecondsOrZero = Annotated[float, _Number, Field(ge=0)]
Ratio = Annotated[float, _Number, Field(ge=0, le=1)]
Count = Annotated[int, _Number, Field(ge=1)]
CountOrZero = Annotated[int, _Number, Field(ge=0)]
Port = Annotated[int, _Number, Field(ge=1, le=65535)]
PortOrZero = Annotated[int, _Number, Field(ge=0, le=65535)]
ConfigPath = Annotated[Path, AfterValidator(Path.expanduser), InConfigFolder()]


def compared_with(key: str, words: str, holds: Callable[[float, float], bool]) -> AfterValidator:
    """Compares a number with that of `key`, an earlier field of the same section.

    `words` says what must hold, such as "must be below".
    """

    def check(value: float, info: ValidationInfo) -> float:
        other = info.data.get(key)
        if other is not None and not holds(value, other):
            raise mistake(f"{words} {key}, which is {other:g}")
        return value

    return AfterValidator(check)


def matching(pattern: str, message: str) -> AfterValidator:
    """Checks that all of a text matches; `message` says what is allowed."""
    compiled = re.compile(pattern, re.DOTALL)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise mistake(message)
        return value

    return AfterValidator(check)


Text = Annotated[str, matching(r"\S(.*\S)?", "must not be empty or begin or end with a space")]
ScenarioChoice = Annotated[Text, NameOrInConfigFolder()]
_MODEL_NAME = r"[^\s-](.*\S)?"
ModelName = Annotated[
    str,
    matching(_MODEL_NAME, "must be a model name or a path, not empty, not a flag"),
]
TargetName = Annotated[
    str,
    matching(
        r"[a-zA-Z0-9_.-]{1,64}",
        'must be 1 to 64 letters, digits, "_", "." or "-": it becomes a label value',
    ),
]
SourceName = Annotated[
    str,
    matching(  # a target's name adds "-" and an address of up to 39 characters
        r"[a-zA-Z0-9_.-]{1,24}",
        'must be 1 to 24 letters, digits, "_", "." or "-": names of targets begin with it',
    ),
]
HostName = Annotated[
    str,
    Field(max_length=253),
    matching(  # a last part of digits alone would be an address
        r"([a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\.)*"
        r"(?![0-9]+\.?$)[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\.?",
        'must be a DNS name, such as "vllm.models.svc.cluster.local", without port and scheme',
    ),
]
UrlPath = Annotated[
    str,
    matching(
        r"|(/(?!v1/*$)[a-zA-Z0-9._~-]+)+",
        'must be empty or a path such as "/llm", without /v1 and without a final slash',
    ),
]
CurrencyName = Annotated[
    str, matching(r"[A-Z]{3}", 'must be three capital letters, such as "EUR" (ISO 4217)')
]
ContainerName = Annotated[
    str,
    matching(
        r"[a-zA-Z0-9][a-zA-Z0-9_.-]+",
        'must be a container name: a letter or digit, then letters, digits, "_", "." or "-"',
    ),
]
NetworkName = Annotated[
    str, matching(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", "must be the name of a Docker network")
]
ContainerLabel = Annotated[
    str, matching(r"[^\s=]+(=\S.*)?", 'must be a label: "key" or "key=value"')
]
HostAndPort = Annotated[
    str,
    matching(
        r"([a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?",
        'must be a host, with a port or without, such as "exporter.example:9477"',
    ),
]
EnvironmentName = Annotated[
    str, matching(r"[a-zA-Z_][a-zA-Z0-9_]*", "must be the name of an environment variable")
]
DockerHost = Annotated[
    str,
    matching(
        r"unix:///\S+|(tcp|http|https)://[^\s/@]+",
        'must be "unix:///path" or "tcp://host:port" (http, https too), without credentials',
    ),
]
CacheMount = Annotated[
    str,
    matching(
        r"none|/[^:]*|[a-zA-Z0-9][a-zA-Z0-9_.-]+",
        'must be an absolute path, the name of a Docker volume, or "none"',
    ),
]
MountText = Annotated[
    str,
    matching(
        r"(/[^:]*|[a-zA-Z0-9][a-zA-Z0-9_.-]+):/[^:]*(:r[ow])?",
        'must be "SOURCE:/target" or "SOURCE:/target:ro", SOURCE an absolute path or a volume name',
    ),
]


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """The address of a server. `host` has no brackets; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - only where a user asks for it with ":port"


def parse_listen(value: Any) -> ListenAddress:
    """`host:port`, with an IPv6 host in brackets. `:port` means every IPv4 address."""
    if isinstance(value, ListenAddress):
        return value
    found = isinstance(value, str) and re.fullmatch(
        r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[^\s:/@\[\]]*)):(?P<port>[0-9]{1,5})", value
    )
    if not found or int(found["port"]) not in _PORTS or (found["six"] and not _is_ipv6(found)):
        raise mistake(
            'must be "host:port" with a port from 0 to 65535, an IPv6 address in brackets, '
            'such as "127.0.0.1:9477", ":9477" or "[::1]:9477"'
        )
    return ListenAddress(found["six"] or found["host"] or _EVERY_ADDRESS, int(found["port"]))


def _is_ipv6(found: re.Match[str]) -> bool:
    try:
        ipaddress.IPv6Address(found["six"])
    except ValueError:
        return False
    return True


Listen = Annotated[ListenAddress, PlainValidator(parse_listen), PlainSerializer(str)]


def _check_address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise mistake('must be an IP address, such as "127.0.0.1" or "0.0.0.0"') from None


IpAddress = Annotated[str, AfterValidator(_check_address)]


_HOST_AND_PORT = re.compile(r"([\w.-]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}(/.*)?", re.ASCII)


def is_url(text: str) -> bool:
    """Whether a text can only be a URL: it begins with http:// or https://, or is `host:port`."""
    return text.startswith(("http://", "https://")) or bool(_HOST_AND_PORT.fullmatch(text))


def _url_check(*, base: bool) -> Callable[[str], str]:
    """A check that returns the URL without a final slash. `host:port` becomes an http URL.

    With `base` it also removes a final /v1, which the base URL of every OpenAI client has.
    """

    def check(value: str) -> str:
        parts = _split_url(f"http://{value}" if _HOST_AND_PORT.fullmatch(value) else value)
        if parts.username is not None or parts.password is not None:
            raise mistake("must not contain a user or password: use api_key or api_key_file")
        if parts.query or parts.fragment or value.endswith(("?", "#")):
            raise mistake("must not contain a query or fragment")
        path = parts.path.rstrip("/")
        if base:
            path = path.removesuffix("/v1").rstrip("/")
        return f"{parts.scheme}://{parts.netloc}{path}"

    return check


def _split_url(value: str) -> SplitResult:
    wrong = mistake('must be an http or https URL, such as "http://127.0.0.1:8000"')
    if re.search(r"[\s\x00-\x1f\x7f]", value):
        raise wrong
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise wrong from None
    if not usable or parts.netloc.endswith(":"):
        raise wrong
    return parts


BaseUrl = Annotated[str, AfterValidator(_url_check(base=True))]
PageUrl = Annotated[str, AfterValidator(_url_check(base=False))]


def parse_bytes(value: Any) -> int:
    """A size in Docker's notation: 8g is 8 * 2**30 bytes; a plain number is bytes."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    found = isinstance(value, str) and re.fullmatch(r"([0-9]+)\s*([bkmgt]?)(?:i?b)?", value.lower())
    if not found or int(found[1]) == 0:
        raise mistake('must be a size above 0, such as "8g", "512m" or a number of bytes')
    return int(found[1]) * _BINARY_UNITS[found[2]]


def show_bytes(size: int) -> str:
    """The shortest exact notation of `size`."""
    for unit in "tgmk":
        if size % _BINARY_UNITS[unit] == 0:
            return f"{size // _BINARY_UNITS[unit]}{unit}"
    return f"{size}b"


Bytes = Annotated[int, PlainValidator(parse_bytes), PlainSerializer(show_bytes)]
Gpus = str | int | tuple[str, ...]


def parse_gpus(value: Any) -> Gpus:
    """`"all"`, a count, or a tuple of device ids."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,4}", value.strip()):
        return int(value)
    if value == "all" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value  # type: ignore[no-any-return]  # a str or an int, by the line above
    if isinstance(value, str) and re.match(r"device=|[^=]+,", value):
        value = value.removeprefix("device=").split(",")
    if isinstance(value, list | tuple) and value:
        ids = tuple(str(each) for each in value if not isinstance(each, bool))
        if len(set(ids)) == len(value) and all(re.fullmatch(r"[\w./:-]+", each) for each in ids):
            return ids
    raise mistake('must be "all", a count (0 for none) or a list of device ids')


def _plain(value: Gpus | Adapters) -> Any:
    return list(value) if isinstance(value, tuple) else value


def parse_adapters(value: Any) -> Adapters:
    """`"all"`, or a tuple of distinct names."""
    if value == "all":
        return "all"
    names = value if isinstance(value, list | tuple) else [value]
    if all(isinstance(one, str) and re.fullmatch(_MODEL_NAME, one) for one in names):
        if len(set(names)) == len(names):
            return tuple(names)
        raise mistake("names an adapter twice")
    raise mistake('must be "all" or a list of adapter names')


AdapterChoice = Annotated[Adapters, PlainValidator(parse_adapters), PlainSerializer(_plain)]
GpuChoice = Annotated[Gpus, PlainValidator(parse_gpus), PlainSerializer(_plain)]
