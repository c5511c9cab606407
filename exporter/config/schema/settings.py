"""All settings, in groups. Each field says its unit and the reason for its default."""

import operator
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from exporter.config.schema.discovery import DiscoverySettings
from exporter.config.schema.otlp import OtlpSettings
from exporter.config.schema.target import Target
from exporter.config.schema.values import (
    ConfigPath,
    Count,
    CountOrZero,
    HostAndPort,
    Listen,
    ListenAddress,
    PageUrl,
    Ratio,
    ScenarioChoice,
    Seconds,
    SecondsOrZero,
    Section,
    TargetName,
    compared_with,
    distinct_names,
    mistake,
)


class LogSettings(Section):
    """The log, written to standard error."""

    format: Literal["json", "console"] = "console"
    """`json` for log collectors, `console` for people."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is logged. `debug` also logs the output of supervised containers."""


class ProbeSettings(Section):
    """The synthetic sessions: how often they run, and how long each part of a turn may take."""

    interval_seconds: Annotated[Seconds, Field(ge=1)] = 60.0
    """Seconds from the start of one session to the start of the next, where the limits below allow
    it. One session a minute is enough to alert on, and costs a large server little."""

    heartbeat_interval_seconds: SecondsOrZero = 100.0
    """Seconds after a session or heartbeat until the next heartbeat, if no session came: a short
    prompt and its continuation, which show whether the engine answers and its cache hits. The
    default notices a dead cache within two minutes. 0 sends none."""

    jitter_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Each interval varies at random by up to this share, so that many exporters do not run at the
    same time."""

    max_tokens: Annotated[Count, Field(le=4096)] = 32
    """The longest answer of a turn, in tokens. Short answers are enough: the cache saves prefill,
    and answers only make the history longer."""

    api: Literal["chat_completions", "messages", "responses"] = "chat_completions"
    """The API to use: choose that of your agents. `chat_completions` and `responses` are OpenAI's,
    `messages` is Anthropic's. All requests of the exporter go over it, and the arithmetic is the
    same. `messages` sends no token ids, so some ideals are unknown there. Every vLLM serves the
    default."""

    scenario: ScenarioChoice = "coding-agent"
    """The conversation to play: `coding-agent`, `tool-trace`, `document-review`, the path of a
    `.json` or `.jsonl` file, or a folder of such files (`./traces`). A folder plays one file per
    session, in the order of their names. A path contains a slash or ends in `.json` or `.jsonl`."""

    tokens_per_hour: CountOrZero = 5_000_000
    """The budget of each target, in prompt and completion tokens per hour; 0 means no limit.
    Sessions run less often if the budget requires it. The default is about four times what one
    session a minute of the built-in scenario uses at an engine with 16-token blocks. Cached tokens
    count too, so the engine computes only about a seventh of it."""

    max_cache_turnover_per_hour: Annotated[float, Field(ge=0)] = 0.1
    """The most of an engine's KV cache that the probe may rewrite per hour, as a share of the
    capacity of one rank; 0 means no limit. What the probe writes takes the place of the oldest
    blocks, which are often users'. Sessions run less often if the limit requires it, and a quarter
    of an hour gets at most three tenths of it; heartbeats go on. Where the
    capacity is unknown, only `tokens_per_hour` holds."""

    quiet_after_seconds: SecondsOrZero = 3600.0
    """After so many seconds without a request of a user, only heartbeats are sent until users come
    back. 0 means that sessions go on."""

    max_prefill_share_ratio: Ratio = 0.01
    """While users are busy, no session starts that would raise the probe's share of the prompt
    tokens which the engine computed within an hour above this. Users are busy if their requests ran
    at more than half of the readings of the last ten minutes. 1 means no limit."""

    max_waiting_requests: CountOrZero = 0
    """No session starts while more requests than this wait in the engine's queue, so that the probe
    does not delay users. If none of the engine's counters grows for a minute, one session starts
    anyway, to show whether the engine is stuck."""

    max_kv_cache_usage_ratio: Ratio = 0.9
    """No session starts while running requests use more than this share of the KV cache, because
    the engine could preempt them. 1 means no limit."""

    control_ratio: Ratio = 0.03125
    """The share of turns that are sent a second time without the cache (a cold control), to measure
    what the cache saves. The last turns of a session have them. The default is the last turn of
    every fourth session of eight turns, because a control takes as much room in the cache as a
    session; 0 sends no cold controls."""

    retention_gaps_seconds: Annotated[tuple[Seconds, ...], Field(max_length=20)] = (
        *(1, 10, 60, 300, 900),
    )
    """The idle times after which the probe checks whether a prefix is still cached, in seconds.
    They cover how long an agent waits for a tool. An empty list measures none."""

    retention_interval_seconds: Annotated[Seconds, Field(ge=60)] = 3600.0
    """Seconds from one measurement of all gaps to the next. The default is longer than all default
    gaps together, and rare enough to cost little."""

    isolation_interval_seconds: SecondsOrZero = 600.0
    """Seconds between two isolation checks: a prompt must hit the cache with its own salt and miss
    with another one. 0 turns the check off. Each check sends three requests for one token each, and
    also shows whether the cache hits at all."""

    cached_tokens_from_counters: bool = False
    """For a server that cannot run with --enable-prompt-tokens-details: take the cached tokens of a
    turn from the growth of the engine's prefix-cache counters, if the engine served nothing else
    during the turn. Off by default: a busy server then has no hit ratio, and a server that is
    rarely idle shows only its quiet minutes."""

    connect_timeout_seconds: Seconds = 5.0
    """The limit for opening the connection, in seconds. A server that takes longer counts as
    down."""

    first_token_timeout_seconds: Seconds = 60.0
    """The limit from the request to the first token, in seconds. Long enough for a full queue,
    short enough to notice an engine that hangs."""

    between_tokens_timeout_seconds: Seconds = 30.0
    """The limit between two tokens, in seconds. A longer gap is a stall."""

    turn_timeout_seconds: Seconds = 120.0
    """The limit for a whole turn, in seconds. It applies even if the other limits would allow
    more."""

    turn_label_limit: Annotated[Count, Field(le=1000)] = 32
    """The highest value of the label `turn`. Later turns count in the totals only, so that a long
    scenario does not create too many series in Prometheus."""

    @field_validator("retention_gaps_seconds")
    @classmethod
    def _gaps_differ(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) < len(value):
            raise mistake("must not contain a gap twice")
        return value


class ScrapeSettings(Section):
    """The scrapes of vLLM's own /metrics."""

    interval_seconds: Annotated[Seconds, Field(ge=0.1)] = 10.0
    """Seconds from one scrape to the next. The default puts several scrapes into the shortest
    window (1m)."""

    timeout_seconds: Annotated[
        Seconds, compared_with("interval_seconds", "must not be above", operator.le)
    ] = 3.0
    """The limit for one scrape, in seconds. Keep it well below the interval."""

    concurrency: Annotated[Count, Field(le=1000)] = 64
    """The most engines to scrape at the same time; each takes a connection and a few milliseconds
    of one core. Engines whose last scrape timed out share half of these slots, so that engines that
    hang cannot delay the others. The default is enough for 1000 engines scraped every 15 s, of
    which 150 hang for 3 s."""


class HistorySettings(Section):
    """The last sessions of each target, kept in memory for the page and the API."""

    sessions: Annotated[Count, Field(le=10_000)] = 50
    """Sessions to keep per target. At one session a minute, the default covers most of an hour."""

    failures: Annotated[CountOrZero, compared_with("sessions", "must be below", operator.lt)] = 10
    """How many of these sessions are reserved for failed ones, so that newer good sessions do not
    push them out."""


class PageSettings(Section):
    """The status page."""

    grafana_url: PageUrl | None = None
    """The URL of Grafana, for links to its dashboards, for example "http://localhost:3000". Without
    it the page has no links."""


class MetricsSettings(Section):
    """The pages that Prometheus scrapes."""

    whole_page_targets: CountOrZero = 100
    """With more targets than this, `/metrics` shows only the exporter's own metrics, and each
    target's metrics are at `/metrics?target=NAME`. A hundred targets are 30,000 series and 3 MB,
    made in 45 ms, which is as much as one scrape should be. 0 always uses per-target pages; use it
    with `/api/v1/http-sd`, so that no series is scraped twice."""

    http_sd_address: HostAndPort | None = None
    """The host and port at which Prometheus reaches these pages, for the answers of
    `/api/v1/http-sd`. By default the address of the request."""


class ShutdownSettings(Section):
    """How the daemon stops."""

    grace_seconds: Annotated[Seconds, Field(le=60)] = 1.0
    """How long a client may finish reading a page after SIGTERM, in seconds. Keep it short: the
    daemon should stop within 5 s, and Docker kills it after 10 s."""


class Settings(BaseSettings, Section):
    """All settings. Each part of the program gets only the section that it needs."""

    model_config = SettingsConfigDict(env_prefix="VLLM_EXPORTER_", env_nested_delimiter="__")

    listen: Listen = ListenAddress("127.0.0.1", 9477)
    """The address of /metrics and the status page. The default is loopback, because the page shows
    details of the engine; ":9477" means every IPv4 address. Port 0 lets the system choose one."""

    instance: TargetName | None = None
    """The name of this exporter, set as a label on the containers that it creates. Another exporter
    with a target of the same name then leaves them alone. By default it is computed from the
    machine and the path of the configuration file."""

    web_config_file: ConfigPath | None = None
    """A YAML file in the format of Prometheus's web configuration, which turns on TLS and passwords
    for these pages. Without it there is neither. The exporter reads the file again when it
    changes."""

    web_reload_enabled: bool = False
    """Whether `POST /-/reload` reloads the configuration; the signal SIGHUP always does. Off by
    default, because everyone who can reach the page could trigger reloads."""

    web_probe_enabled: bool = False
    """Whether `GET /probe?target=NAME` plays a session and answers with its metrics, as
    blackbox_exporter does. Off by default, because each request costs the engine time. It needs a
    `web_config_file` with passwords, or one that requires client certificates."""

    reuse_rules_file: ConfigPath | None = None
    """A file that the exporter writes, so that after a restart of the exporter it knows each
    engine's reuse rule, and whether the cache had hits. What it says of an engine counts only while
    the engine's process is the same. Without it the first session of each target shows the rule
    again, and a cache that stopped meanwhile is `never_hit` and not `wedged`."""

    log: LogSettings = LogSettings()

    probe: ProbeSettings = ProbeSettings()

    scrape: ScrapeSettings = ScrapeSettings()

    history: HistorySettings = HistorySettings()

    page: PageSettings = PageSettings()

    metrics: MetricsSettings = MetricsSettings()

    otlp: OtlpSettings = OtlpSettings()

    shutdown: ShutdownSettings = ShutdownSettings()

    discovery: DiscoverySettings = DiscoverySettings()

    targets: Annotated[tuple[Target, ...], distinct_names(Target, "targets")] = ()
    """The engines to measure. `run` needs at least one, or a source under `discovery`."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the names are pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only the caller's values: load.py reads the sources, to know each value's origin."""
        return (init_settings,)
