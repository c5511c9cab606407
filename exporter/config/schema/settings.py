"""All settings, in small groups: each field gives its unit, its default and the reason for it."""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from exporter.config.schema.discovery import DiscoverySettings
from exporter.config.schema.metrics_pages import MetricsSettings
from exporter.config.schema.target import Target
from exporter.config.schema.values import (
    ConfigPath,
    Count,
    CountOrZero,
    Listen,
    ListenAddress,
    PageUrl,
    Ratio,
    ScenarioChoice,
    Seconds,
    SecondsOrZero,
    Section,
    TargetName,
    check_with,
    doubles,
    mistake,
)


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
    not push in before users. After a minute in which the engine counted nothing, one does."""

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

    grace_seconds: Annotated[Seconds, Field(le=60)] = 1.0
    """How long a client that is still reading a page may take after SIGTERM, in seconds. The daemon
    promises to end within 5 s, and Docker kills after 10."""


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

    instance: TargetName | None = None
    """Which exporter this is: a label of the containers that it makes, so that another exporter
    with a target of the same name leaves them alone. If not set, it follows from the machine and
    the path of the configuration."""

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

    discovery: DiscoverySettings = DiscoverySettings()

    targets: tuple[Target, ...] = ()
    """The engines that are measured. `run` needs at least one, or a source under `discovery`."""

    @field_validator("targets", mode="wrap")
    @classmethod
    def _names_are_unique(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        default = Target.model_fields["name"].default
        return check_with(handler, value, doubles(value, default, "targets"))

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
