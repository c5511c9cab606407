"""All settings, in small groups: each field gives its unit, its default and the reason for it."""

import ipaddress
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SecretStr,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from exporter.config.container import ENGINE_FLAGS, MANAGED_ONLY, ContainerSettings
from exporter.config.metrics_pages import MetricsSettings
from exporter.config.values import (
    BaseUrl,
    ConfigPath,
    Count,
    CountOrZero,
    CurrencyName,
    Listen,
    ListenAddress,
    ModelName,
    PageUrl,
    PositiveNumber,
    Ratio,
    ScenarioChoice,
    Seconds,
    SecondsOrZero,
    Section,
    TargetName,
    check_with,
    keys_of,
    mistake,
    mistake_at,
)

Mode = Literal["managed", "attached", "external"]
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognised, not bound


class LogSettings(Section):
    """The log, on standard error."""

    format: Literal["json", "console"] = "console"
    """`json` for machines, `console` for people."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """At `debug` the lines of a supervised container are in it too."""


class ProbeSettings(Section):
    """The synthetic session: how often it is played, and how long each part of a turn may take."""

    interval_seconds: Annotated[Seconds, Field(ge=1)] = 60.0
    """From the start of one session to the start of the next, in seconds. A minute is often
    enough to page for and costs a busy server little."""

    jitter_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """The interval varies at random by this share, so that many exporters do not fall in step."""

    max_tokens: Annotated[Count, Field(le=4096)] = 32
    """The longest answer of a turn, in tokens. Prefill is what the cache saves; answers only make
    the history grow."""

    scenario: ScenarioChoice = "coding-agent"
    """The conversation that is played: `coding-agent`, `tool-trace`, `document-review`, the path
    of a `.json` or `.jsonl` file, or a folder of such files (`./traces`), one a session in the
    order of their names. A path has a slash or one of these endings."""

    tokens_per_hour: CountOrZero = 5_000_000
    """The budget for each target, in prompt and completion tokens; 0 is no limit. The interval
    grows where a session costs more than fits. The default is about four times what a session a
    minute of the built-in scenario asks of an engine with 16-token blocks. Cached tokens count
    too, so the engine computes about a seventh of it."""

    max_waiting_requests: CountOrZero = 0
    """No session starts while more requests than this wait in the engine's queue: the probe does
    not push in before users."""

    max_kv_cache_usage_ratio: Ratio = 0.9
    """No session starts while running requests hold more than this share of the KV cache: the
    probe would have them preempted. 1 is no limit."""

    control_ratio: Ratio = 0.125
    """The share of turns, drawn at random, whose messages are sent a second time without a cache,
    to measure what it saves. About one turn of a session; 0 sends none."""

    retention_gaps_seconds: Annotated[tuple[Seconds, ...], Field(max_length=20)] = (
        *(1, 10, 60, 300, 900),
    )
    """How long a prefix is left alone before it is seen whether the cache still has it, in
    seconds: how long an agent may wait for a tool. An empty list measures none."""

    retention_interval_seconds: Annotated[Seconds, Field(ge=60)] = 3600.0
    """From one measurement of all gaps to the next, in seconds."""

    isolation_interval_seconds: SecondsOrZero = 600.0
    """From one test to the next that a prompt hits under its own salt and not under another, in
    seconds; 0 makes none. Three requests for one token each, which also tell whether the cache
    hits at all."""

    cached_tokens_from_counters: bool = False
    """For a server that cannot run with --enable-prompt-tokens-details: take a turn's cached tokens
    from the growth of its prefix-cache counters, if it ran nothing else during the turn. Off, since
    a busy server then has no hit ratio at all, and one that seldom is shows its quiet minutes."""

    connect_timeout_seconds: Seconds = 5.0
    """Until the connection stands, in seconds. A server that takes longer does not answer."""

    first_token_timeout_seconds: Seconds = 60.0
    """From the request to the first token, in seconds. A full queue is waited for, an engine that
    hangs is not."""

    between_tokens_timeout_seconds: Seconds = 30.0
    """Between two tokens, in seconds. Longer is a stall."""

    turn_timeout_seconds: Seconds = 120.0
    """The whole turn, in seconds; it holds where the others are longer."""

    turn_label_limit: Annotated[Count, Field(le=1000)] = 32
    """The highest value of the label `turn`; later turns are counted in the totals only. It keeps
    a long scenario from filling Prometheus with series."""

    @field_validator("retention_gaps_seconds")
    @classmethod
    def _gaps_differ(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) < len(value):
            raise mistake("must not have a gap twice")
        return value


class ScrapeSettings(Section):
    """The reading of vLLM's own /metrics."""

    interval_seconds: Annotated[Seconds, Field(ge=0.1)] = 10.0
    """From one reading to the next, in seconds. Several fall into the shortest window (1m)."""

    timeout_seconds: Seconds = 3.0
    """How long one reading may take, in seconds: well below the interval."""

    concurrency: Annotated[Count, Field(le=1000)] = 64
    """The most engines that are read at once. Each takes a connection and a few milliseconds of
    one core, so that a thousand never come together; and 150 of a thousand may hang for 3 s in each
    15 s, in the half of these places that such engines share, and delay nobody."""

    @field_validator("timeout_seconds")
    @classmethod
    def _below_interval(cls, value: float, info: ValidationInfo) -> float:
        interval = info.data.get("interval_seconds")
        if interval is not None and value > interval:
            raise mistake(f"must not be above interval_seconds, which is {interval:g}")
        return value


class HistorySettings(Section):
    """The last sessions of each target, kept in memory for the page and the API."""

    sessions: Annotated[Count, Field(le=10_000)] = 50
    """Sessions kept per target. At one a minute, most of an hour."""

    failures: CountOrZero = 10
    """Of these, places that failed sessions hold against newer good ones."""

    @field_validator("failures")
    @classmethod
    def _fewer_than_sessions(cls, value: int, info: ValidationInfo) -> int:
        sessions = info.data.get("sessions")
        if sessions is not None and value >= sessions:
            raise mistake(f"must be below sessions, which is {sessions}")
        return value


class PageSettings(Section):
    """The status page."""

    grafana_url: PageUrl | None = None
    """Where Grafana is, for links to its dashboards, as "http://localhost:3000". No link if not
    set."""


class ShutdownSettings(Section):
    """The end of the daemon."""

    grace_seconds: Seconds = 4.0
    """How long running requests may take to end after SIGTERM, in seconds. Below the 10 s after
    which Docker kills, and the 5 s within which the daemon promises to end."""


class Target(Section):
    """One engine that is measured."""

    name: TargetName = "vllm"
    """The value of the label `target`; no two targets may share one."""

    mode: Mode = "external"
    """`managed`: the exporter makes and looks after the container. `attached`: somebody else made
    the container, the exporter watches it. `external`: a URL, no Docker."""

    url: BaseUrl | None = None
    """The server's root, without /v1. Required, except where it follows from the port that a
    managed container publishes."""

    model: ModelName | None = None
    """The model to ask for; the first of /v1/models if not set."""

    api_key: SecretStr | None = None
    """Sent as a bearer token. A managed container is given it as the key to demand."""

    api_key_file: ConfigPath | None = None
    """A file with that key, in place of `api_key`."""

    metrics_url: PageUrl | None = None
    """vLLM's own metrics page; `url` and `/metrics` if not set."""

    verify_tls: bool = True
    """Whether the certificate of an https URL is checked."""

    ca_file: ConfigPath | None = None
    """Certificates (PEM) to trust in place of the system's, for a private authority."""

    price_per_hour: Annotated[PositiveNumber, Field(le=1e6)] | None = None
    """What this engine costs in an hour, to tell saved prefill seconds in money. Not guessed."""

    currency: CurrencyName | None = None
    """The currency of that price, as "EUR": a label value. Required with it."""

    watts: Annotated[PositiveNumber, Field(le=1e9)] | None = None
    """What this engine's accelerators draw while they compute, in watts, to tell saved prefill
    seconds in energy. Not guessed."""

    container: ContainerSettings | None = None
    """The container; for the modes `managed` and `attached`, and required there."""

    @field_validator("container", mode="wrap")
    @classmethod
    def _container_fits_mode(
        cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        mode = info.data.get("mode")
        if mode is None:  # a mistake of its own, already told
            return handler(value)
        if value is None:
            if mode != "external":
                raise mistake(f'is required in mode "{mode}"')
            return None
        if mode == "external":
            message = 'has no place in mode "external": set mode = "managed" or "attached"'
            return check_with(handler, value, [mistake_at(message)])
        misfits = _attached_misfits(value) if mode == "attached" else _managed_misfits(value)
        if mode == "managed" and info.data.get("url") is None and "url" in info.data:
            misfits += _unreachable(value)
        return check_with(handler, value, misfits)

    @field_validator("url")
    @classmethod
    def _url_is_there(cls, value: str | None, info: ValidationInfo) -> str | None:
        mode = info.data.get("mode")
        if value is None and mode is not None and mode != "managed":
            raise mistake(f'is required in mode "{mode}", as "http://127.0.0.1:8000"')
        return value

    @field_validator("currency")
    @classmethod
    def _price_has_currency(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("price_per_hour") is not None:
            raise mistake('is required beside price_per_hour, as "EUR"')
        return value

    @field_validator("ca_file")
    @classmethod
    def _ca_is_used(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("verify_tls") is False:
            raise mistake("has no effect with verify_tls = false: keep one of them")
        return value

    @property
    def base_url(self) -> str:
        """Where the server is reached, without a slash at the end."""
        if self.url is not None:
            return self.url
        if self.container is None:  # cannot be: each mode asks for one of the two
            raise AssertionError(self.name)
        host = _ANY_ADDRESS.get(self.container.host_ip, self.container.host_ip)
        bracketed = f"[{host}]" if ipaddress.ip_address(host).version == 6 else host  # noqa: PLR2004 - IPv6
        return f"http://{bracketed}:{self.container.host_port}"

    @property
    def effective_metrics_url(self) -> str:
        return self.metrics_url or f"{self.base_url}/metrics"

    @property
    def container_name(self) -> str | None:
        """The name of the container to look for; None if it is found by its label."""
        if self.container is None:
            return None
        if self.container.name is None and self.mode == "managed":
            return f"vllm-{self.name}"
        return self.container.name

    @property
    def may_restart(self) -> bool:
        """Whether the exporter may start the container again."""
        if self.container is None or self.container.restart == "never":
            return False
        return self.container.restart == "always" or self.mode == "managed"


def _attached_misfits(container: Any) -> list[Any]:
    keys = set(keys_of(container))
    if "hf_token_file" in keys:  # load.py has read the token out of it
        keys -= {"hf_token"}
    misfits = [
        mistake_at('is for mode "managed" only: somebody else made this container', key)
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
            mistake_at("has no effect beside command: keep one of them", key)
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
    message = "publishes no port: set the target's url to where the container is reached"
    return [mistake_at(message, "host_port")]


def _unique(targets: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    listed = targets if isinstance(targets, list | tuple) else []
    default = Target.model_fields["name"].default
    names = [
        each.get("name", default) if isinstance(each, dict) else getattr(each, "name", None)
        for each in listed
    ]
    counts = Counter(name for name in names if isinstance(name, str))
    doubles = [
        mistake_at("must differ from the names of the other targets", place, "name")
        for place, name in enumerate(names)
        if isinstance(name, str) and counts[name] > 1 and names.index(name) < place
    ]
    return check_with(handler, targets, doubles)


class Settings(BaseSettings):
    """Everything that can be set. Parts of the program are handed the section that they need."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
        validate_default=True,
        env_prefix="VLLM_EXPORTER_",
        env_nested_delimiter="__",
    )

    listen: Listen = ListenAddress("127.0.0.1", 9477)
    """Where the exporter serves /metrics and its page. Loopback: the page tells a stranger about
    the engine. Port 0 lets the system choose."""

    web_config_file: ConfigPath | None = None
    """A YAML file that puts TLS and passwords before these pages, in the format of Prometheus's
    web configuration. Neither if not set. Read again when it changes."""

    web_reload_enabled: bool = False
    """Whether `POST /-/reload` reads the configuration again, as the signal SIGHUP always does.
    Off: whoever reaches the page could have it read again and again."""

    log: LogSettings = LogSettings()

    probe: ProbeSettings = ProbeSettings()

    scrape: ScrapeSettings = ScrapeSettings()

    history: HistorySettings = HistorySettings()

    page: PageSettings = PageSettings()

    metrics: MetricsSettings = MetricsSettings()

    shutdown: ShutdownSettings = ShutdownSettings()

    targets: tuple[Target, ...] = ()
    """The engines that are measured. `run` needs at least one."""

    @field_validator("targets", mode="wrap")
    @classmethod
    def _names_are_unique(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        return _unique(value, handler)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the names are pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the caller passes: load.py reads the sources, to know where a value is from."""
        return (init_settings,)
