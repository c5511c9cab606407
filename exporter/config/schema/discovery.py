"""Where targets are found that no list names: DNS names of many replicas, labels of containers."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationInfo, ValidatorFunctionWrapHandler, field_validator
from pydantic.fields import FieldInfo

from exporter.config.schema.target import TargetTemplate
from exporter.config.schema.values import (
    ContainerLabel,
    Count,
    DockerHost,
    HostName,
    ModelName,
    NetworkName,
    Port,
    Seconds,
    SecondsOrZero,
    Section,
    SourceName,
    TargetName,
    UrlPath,
    check_with,
    doubles,
    mistake,
)

Scheme = Literal["http", "https"]

LABEL_PREFIX = "io.vllm-cache-exporter.scrape"
"""The container label that says "measure me"; the labels of ContainerLabels stand below it."""


class SourceSettings(Section):
    """Where the servers of a source are, and how often it is asked."""

    port: Port = 8000
    """The port of every server, within its container or pod. vLLM's own default."""

    scheme: Scheme = "http"
    """With `https` the certificates must be for the addresses, or `verify_tls` off: the servers are
    asked by address, whatever name led there."""

    path: UrlPath = ""
    """What comes before /v1 in every URL, as "/llm"."""

    refresh_seconds: Annotated[Seconds, Field(ge=1)] = 15.0
    """From one look to the next, in seconds. A new replica is measured this soon; a look costs one
    question."""

    gone_after_seconds: SecondsOrZero = 30.0
    """How long a target must be missing from what the source answers until it is retired with its
    series, in seconds; 0: at once. Longer than one answer that lacks it by chance, and short enough
    that a rollout pages nobody. While the source does not answer, nothing is gone."""


class _Dns(Section):
    """The keys that come first in every listing, as below."""

    name: SourceName
    """What the targets' names begin with, as in `vllm-10.0.0.7`."""

    host: HostName
    """The name to look up: a headless Service of Kubernetes, a service of compose."""

    addresses: Literal["ipv4", "ipv6", "both"] = "ipv4"
    """Which addresses count. Where a replica has one of each kind, `both` measures it twice."""


class DnsDiscovery(TargetTemplate, SourceSettings, _Dns):
    """A DNS name that resolves to many replicas, each of which becomes a target of mode `external`.
    The keys from `model` on hold for all of them.
    """


class _Docker(Section):
    name: SourceName = "docker"
    """What this source is called in the log and the metrics."""

    label: ContainerLabel = f"{LABEL_PREFIX}=true"
    """The containers to measure: `key` or `key=value`."""

    docker_host: DockerHost = "unix:///var/run/docker.sock"
    """The Docker Engine, or a socket proxy in front of it."""

    docker_timeout_seconds: Seconds = 10.0
    """How long one call to Docker may take, in seconds."""

    mode: Literal["external", "attached"] = "external"
    """`external`: running containers are measured by their URL, and retired when they do not run.
    `attached`: the containers are watched too, and they are
    targets until they are removed: one that has ended is told, with the reason."""

    address: Literal["network", "published"] = "network"
    """`network`: a container's own address, which containers beside it and a Linux host reach.
    `published`: the port of the host that leads to it, where the exporter runs elsewhere."""

    network: NetworkName | None = None
    """The Docker network whose addresses count. Needed where containers are in several."""

    @field_validator("network")
    @classmethod
    def _network_counts(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("address") == "published":
            raise mistake('has no effect with address = "published": keep one of them')
        return value


class DockerDiscovery(TargetTemplate, SourceSettings, _Docker):
    """The containers with a label. The keys from `model` on hold for all of them; a container's own
    labels go before these settings.
    """


class ContainerLabels(Section):
    """What a container's own labels say: below LABEL_PREFIX, one for each of these keys."""

    port: Port | None = None
    scheme: Scheme | None = None
    path: UrlPath | None = None
    name: TargetName | None = None
    model: ModelName | None = None
    network: NetworkName | None = None


class DiscoverySettings(Section):
    """Where targets are found beside those that are listed. Looked at again and again."""

    max_targets: Annotated[Count, Field(le=10_000)] = 1000
    """The most targets that all sources together may add. What is above is left out and told: a
    wrong name must not fill the memory."""

    dns: tuple[DnsDiscovery, ...] = ()
    """DNS names, each of which resolves to many replicas."""

    docker: tuple[DockerDiscovery, ...] = ()
    """Docker Engines, and the label of the containers to measure there."""

    def sources(self) -> Mapping[str, SourceSettings]:
        """Every source by its name in logs and metrics: `dns:vllm`."""
        return {
            f"{kind}:{each.name}": each for kind in SOURCE_KINDS for each in getattr(self, kind)
        }

    @field_validator("*", mode="wrap")
    @classmethod
    def _names_differ(
        cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        section = _source_section(cls.model_fields[str(info.field_name)])
        if section is None:
            return handler(value)
        default = section.model_fields["name"].default
        return check_with(handler, value, doubles(value, default, "sources"))


def _source_section(field: FieldInfo) -> type[SourceSettings] | None:
    """The settings of one source, if the field is a list of sources."""
    section: type[SourceSettings] | None
    section, *_ = get_args(field.annotation) or (None,)
    return section


SOURCE_KINDS: Mapping[str, type[SourceSettings]] = {
    name: section
    for name, field in DiscoverySettings.model_fields.items()
    if (section := _source_section(field)) is not None
}
