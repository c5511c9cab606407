"""The settings of one engine, and those that many engines can share."""

import ipaddress
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, ValidatorFunctionWrapHandler, field_validator

from exporter.config.schema.additions import ExtraBody, HeaderFiles, Headers, SeriesLabels, taken
from exporter.config.schema.container import ENGINE_FLAGS, MANAGED_ONLY, ContainerSettings
from exporter.config.schema.kv_events import KvEventsUrl, unpublished
from exporter.config.schema.reach import contradictions
from exporter.config.schema.values import (
    AdapterChoice,
    BaseUrl,
    ConfigPath,
    CurrencyName,
    ModelName,
    PageUrl,
    PositiveNumber,
    Section,
    TargetName,
    check_with,
    keys_of,
    mistake,
    mistake_at,
)

Mode = Literal["managed", "attached", "external"]
RankChoice = Literal["unpinned", "pinned"]
_BY_KEY = "must not be set with api_key or api_key_file, which set it"
RANK_HEADER = "X-data-parallel-rank"
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognised, not bound


class _Place(Section):
    """Its name and address: the keys that come first in every listing."""

    name: TargetName = "vllm"
    """The value of the label `target`. Each target needs a different name."""

    mode: Mode = "external"
    """`managed`: the exporter creates, watches and restarts the container. `attached`: someone else
    created the container, and the exporter watches it. `external`: only a URL, no Docker."""

    url: BaseUrl | None = None
    """The root URL of the server, or `host:port`; a final /v1 is removed. Required, except in mode
    `managed`, where it follows from the port that the container publishes."""

    metrics_url: PageUrl | None = None
    """The URL of vLLM's own metrics page. By default `url` followed by `/metrics`."""

    kv_events_url: KvEventsUrl | None = None
    """Where vLLM publishes its KV events, such as "tcp://127.0.0.1:5557": with
    --kv-events-config '{"enable_kv_cache_events": true}' its endpoint is "tcp://*:5557". The events
    prove which of a session's blocks were evicted or reset. Needs the extra `events`; off if not
    set."""

    metrics_urls: Annotated[tuple[PageUrl, ...], Field(max_length=64)] = ()
    """The metrics pages of all replicas behind a router at `url`, each read from the replica
    itself. They replace `metrics_url`, and tell which replica computed each turn."""

    @field_validator("metrics_urls")
    @classmethod
    def _one_kind_of_page(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("metrics_url") is not None:
            raise mistake("takes the place of metrics_url: keep one of them")
        if value and info.data.get("kv_events_url") is not None:
            raise mistake("are several engines, and kv_events_url is one: keep one of them")
        if len({page_name(url) for url in value}) < len(value):
            raise mistake("names a host and port twice: each replica needs its own")
        return value


def page_name(url: str) -> str:
    """The host and port of a metrics page: the name of its replica."""
    return urlsplit(url).netloc


class TargetTemplate(Section):
    """Settings of one engine, or of all engines that a source finds."""

    model: ModelName | None = None
    """The model to request. By default the first model of /v1/models."""

    adapters: AdapterChoice = ()
    """LoRA adapters of the model that sessions are played with, too: their names, or `"all"` that
    the server lists. Each session takes the next of the model and its adapters."""

    labels: SeriesLabels = Field(default_factory=dict)
    """Labels of every series of the target, such as `team`, `cluster` or `gpu`: for alert routing
    and for filters. Up to 10. Names that the exporter's series have or that Prometheus sets are
    reserved. A change applies at a reload without a restart of the target; Prometheus then sees
    new series."""

    api_key: SecretStr | None = None
    """Sent as a bearer token. A managed container gets it as the key that it requires."""

    api_key_file: ConfigPath | None = None
    """A file that holds this key, in place of `api_key`."""

    headers: Headers = Field(default_factory=dict)
    """Headers of every request to the target's own scheme, host and port, by name. Each value is a
    secret. `{session}` becomes a random id, the same for all requests that must meet the same
    cache, and `{turn}` the number of the turn; write `{{` and `}}` for braces. A header with one of
    them is sent only within a session."""

    header_files: HeaderFiles = Field(default_factory=dict)
    """Files that hold the values of headers, by the name of the header, in place of `headers`."""

    extra_body: ExtraBody = Field(default_factory=dict)
    """Fields of every chat request, such as `chat_template_kwargs` or `priority`. Texts may have
    `{session}` and `{turn}`, as in `headers`."""

    data_parallel_ranks: RankChoice = "unpinned"
    """What chooses the data-parallel rank of a request, if the engine has several. `unpinned`: vLLM
    does, as for most users, so a session loses the cache whenever its rank changes. `pinned`: each
    session of the probe keeps to one rank, by the header `X-data-parallel-rank` (vLLM 0.14 and
    later), and sessions take turns with the ranks."""

    verify_tls: bool = True
    """Whether to check the certificate of an https URL."""

    ca_file: ConfigPath | None = None
    """Certificates (PEM) to trust in place of the system's, for a private certificate authority."""

    price_per_hour: Annotated[PositiveNumber, Field(le=1e6)] | None = None
    """What this engine costs per hour, to express saved prefill seconds as money. There is no
    default, because a guess would be wrong."""

    currency: CurrencyName | None = None
    """The currency of `price_per_hour`, for example "EUR". It becomes a label value, and is
    required with a price."""

    watts: Annotated[PositiveNumber, Field(le=1e9)] | None = None
    """The power of this engine's accelerators while they compute, in watts, to express saved
    prefill seconds as energy. There is no default, because a guess would be wrong."""

    @field_validator("headers", mode="wrap")
    @classmethod
    def _headers_are_free(
        cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        free = info.data.get("api_key") is None
        return check_with(handler, value, [] if free else taken(value, "authorization", _BY_KEY))

    @field_validator("data_parallel_ranks")
    @classmethod
    def _rank_is_free(cls, value: RankChoice, info: ValidationInfo) -> RankChoice:
        if value == "pinned" and taken(info.data.get("headers"), RANK_HEADER.lower(), ""):
            raise mistake(f"has no effect with {RANK_HEADER} in headers: keep one of them")
        return value

    @field_validator("currency")
    @classmethod
    def _price_has_currency(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("price_per_hour") is not None:
            raise mistake('is required with price_per_hour, such as "EUR"')
        return value

    @field_validator("ca_file")
    @classmethod
    def _ca_is_used(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("verify_tls") is False:
            raise mistake("has no effect with verify_tls = false: keep one of them")
        return value

    def template(self) -> dict[str, Any]:
        """These values by key, to create a target with them."""
        return {name: getattr(self, name) for name in TargetTemplate.model_fields}


class Target(TargetTemplate, _Place):
    """One engine to measure."""

    container: ContainerSettings | None = None
    """The container. Required in the modes `managed` and `attached`, not allowed in `external`."""

    @field_validator("container", mode="wrap")
    @classmethod
    def _container_fits_mode(
        cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        mode = info.data.get("mode")
        if mode is None:  # wrong, and reported already
            return handler(value)
        if value is None:
            if mode != "external":
                raise mistake(f'is required in mode "{mode}"')
            return None
        if mode == "external":
            message = 'is not allowed in mode "external": set mode = "managed" or "attached"'
            return check_with(handler, value, [mistake_at(message)])
        if mode == "attached":
            return check_with(handler, value, _attached_misfits(value))
        misfits = _managed_misfits(value)
        if info.data.get("url") is None and "url" in info.data:
            misfits += _unreachable(value)
        container = check_with(handler, value, misfits)
        if "url" in info.data and "name" in info.data:
            container_name = _managed_name(info.data["name"], container)
            wrong = contradictions(info.data["url"], container_name, container)
            check_with(handler, value, [mistake_at(text, key) for key, text in wrong])
        lacking = unpublished(info.data.get("kv_events_url"), container)
        if lacking is not None:
            check_with(handler, value, [mistake_at(lacking, "network")])
        return container

    @field_validator("url")
    @classmethod
    def _url_is_there(cls, value: str | None, info: ValidationInfo) -> str | None:
        mode = info.data.get("mode")
        if value is None and mode is not None and mode != "managed":
            raise mistake(f'is required in mode "{mode}", such as "http://127.0.0.1:8000"')
        return value

    def __hash__(self) -> int:
        """By name and address: its tables of headers and fields have no hash."""
        return hash((self.name, self.url))

    @property
    def base_url(self) -> str:
        """The server's URL without a final slash."""
        if self.url is not None:
            return self.url
        if self.container is None:  # impossible: each mode requires one of the two
            raise AssertionError(self.name)
        host = _ANY_ADDRESS.get(self.container.host_ip, self.container.host_ip)
        bracketed = f"[{host}]" if ipaddress.ip_address(host).version == 6 else host  # noqa: PLR2004 - IPv6
        return f"http://{bracketed}:{self.container.host_port}"

    @property
    def effective_metrics_url(self) -> str:
        return self.metrics_url or f"{self.base_url}/metrics"

    @property
    def replica_pages(self) -> dict[str, str]:
        """The URL of each replica's metrics page, by the replica's name."""
        return {page_name(url): url for url in self.metrics_urls}

    @property
    def container_name(self) -> str | None:
        """The container's name; None if a label identifies it."""
        if self.container is None:
            return None
        if self.mode == "managed":
            return _managed_name(self.name, self.container)
        return self.container.name

    @property
    def may_restart(self) -> bool:
        """Whether the exporter may restart the container."""
        if self.container is None or self.container.restart == "never":
            return False
        return self.container.restart == "always" or self.mode == "managed"


def _managed_name(target: str, container: ContainerSettings) -> str:
    return container.name or f"vllm-{target}"


def _attached_misfits(container: Any) -> list[Any]:
    keys = set(keys_of(container))
    if "hf_token_file" in keys:  # load.py has read the token from it
        keys -= {"hf_token"}
    misfits = [
        mistake_at('is for mode "managed" only: the exporter did not create this container', key)
        for key in sorted(keys & MANAGED_ONLY)
    ]
    if len(keys & {"name", "label"}) != 1:
        misfits.append(mistake_at('needs either name or label in mode "attached"'))
    return misfits


def _managed_misfits(container: Any) -> list[Any]:
    keys = set(keys_of(container))
    misfits = []
    if "command" in keys:
        misfits += [
            mistake_at("has no effect with command: keep one of them", key)
            for key in sorted(keys & ENGINE_FLAGS)
        ]
    elif "model" not in keys:
        misfits.append(mistake_at('is required in mode "managed"', "model"))
    if "label" in keys:
        misfits.append(mistake_at('is for mode "attached" only: use name', "label"))
    return misfits


def _unreachable(container: Any) -> list[Any]:
    port = container.get("host_port") if isinstance(container, dict) else None
    if isinstance(container, ContainerSettings):
        port = container.host_port
    if str(port) != "0":
        return []
    message = "publishes no port: set the target's url"
    return [mistake_at(message, "host_port")]
