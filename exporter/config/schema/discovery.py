"""The settings of discovery: DNS names, labels of containers, and pods of Kubernetes."""

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator

from exporter.config.schema.additions import SeriesLabels
from exporter.config.schema.pods import NamespaceName, PodPort
from exporter.config.schema.target import TargetTemplate
from exporter.config.schema.values import (
    ConfigPath,
    ContainerLabel,
    Count,
    DockerHost,
    HostName,
    ModelName,
    NetworkName,
    PageUrl,
    Port,
    Seconds,
    SecondsOrZero,
    Section,
    SourceName,
    TargetName,
    Text,
    UrlPath,
    distinct_names,
    mistake,
)

Scheme = Literal["http", "https"]

LABEL_PREFIX = "io.vllm-cache-exporter.scrape"
"""The label that asks for measurement, and the start of those of ContainerLabels and PodLabels."""

EVERY_NAMESPACE = "*"


class SourceSettings(Section):
    """How to reach the servers of a source, and how often to query it."""

    scheme: Scheme = "http"
    """With `https`, the certificates must be valid for the servers' IP addresses, because the
    exporter connects by address. Otherwise turn `verify_tls` off."""

    path: UrlPath = ""
    """The part of every URL before /v1, for example "/llm"."""

    refresh_seconds: Annotated[Seconds, Field(ge=1)] = 15.0
    """Seconds from one query to the next, and so the longest time until a new replica is measured.
    One query costs one request."""

    gone_after_seconds: SecondsOrZero = 30.0
    """How long a target must be missing from the answers before it is removed with its series, in
    seconds; 0 removes it at once. The default survives one answer that lacks the target by
    accident, and is short enough that a rollout does not alert. While queries fail, no target is
    removed."""


class _PortNumber(Section):
    port: Port = 8000
    """The port of every server, inside its container or pod. The default is vLLM's own."""


class _Dns(Section):
    """The keys that come first in every listing, as in `_Docker`."""

    name: SourceName
    """The start of the targets' names, as in `vllm-10.0.0.7`."""

    host: HostName
    """The name to look up, for example a headless Service of Kubernetes or a service of compose."""

    addresses: Literal["ipv4", "ipv6", "both"] = "ipv4"
    """Which addresses to use. If a replica has one of each kind, `both` measures it twice."""


class DnsDiscovery(TargetTemplate, SourceSettings, _PortNumber, _Dns):
    """A DNS name with many replicas. Each address becomes a target of mode `external`. The keys
    from `model` on apply to all of them.
    """


class _Docker(Section):
    name: SourceName = "docker"
    """The name of this source in the log and the metrics."""

    label: ContainerLabel = f"{LABEL_PREFIX}=true"
    """The containers to measure: `key` or `key=value`."""

    docker_host: DockerHost = "unix:///var/run/docker.sock"
    """The Docker Engine, or a socket proxy in front of it."""

    docker_timeout_seconds: Seconds = 10.0
    """The limit for one call to Docker, in seconds."""

    mode: Literal["external", "attached"] = "external"
    """`external`: running containers are measured by their URL, and removed when they stop.
    `attached`: the exporter also watches the containers and reports why one stopped. They stay
    targets until someone removes them."""

    address: Literal["network", "published"] = "network"
    """`network`: use a container's own address, which other containers and a Linux host can reach.
    `published`: use its published port on the host, if the exporter runs elsewhere."""

    network: NetworkName | None = None
    """The Docker network whose addresses to use. Required if containers are in several networks."""

    @field_validator("network")
    @classmethod
    def _network_counts(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("address") == "published":
            raise mistake('has no effect with address = "published": keep one of them')
        return value


class DockerDiscovery(TargetTemplate, SourceSettings, _PortNumber, _Docker):
    """Containers with a label. The keys from `model` on apply to all of them. A container's own
    labels override these settings.
    """


class _Kubernetes(Section):
    name: SourceName = "kubernetes"
    """The name of this source in the log and the metrics."""

    namespaces: Annotated[tuple[NamespaceName, ...], Field(max_length=100)] = ()
    """The namespaces to watch; `["*"]` is every namespace. By default that of the exporter's own
    pod. The exporter needs the right to get, list and watch pods in each of them."""

    label_selector: Text = f"{LABEL_PREFIX}=true"
    """The pods to measure, in the syntax of `kubectl get pods --selector`."""

    port: PodPort = 8000
    """The port of every server: a number, or the name of a port in the pod's containers."""

    api_url: PageUrl | None = None
    """The URL of the cluster's API, for an exporter outside the cluster. By default a pod's own
    environment tells the address, and its service account gives the token and the certificates."""

    api_token_file: ConfigPath | None = None
    """The file with the bearer token for the API. It is read again for every request."""

    api_ca_file: ConfigPath | None = None
    """The certificates (PEM) that the API's certificate must be signed by. By default those of the
    service account, and with `api_url` those of the system."""

    @field_validator("namespaces")
    @classmethod
    def _every_or_some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise mistake("names a namespace twice")
        if EVERY_NAMESPACE in value and len(value) > 1:
            raise mistake('must be ["*"] alone for every namespace')
        return value

    @field_validator("api_url")
    @classmethod
    def _namespaces_are_there(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("namespaces") == ():
            raise mistake("needs namespaces: only a pod knows its own")
        return value


class KubernetesDiscovery(TargetTemplate, SourceSettings, _Kubernetes):
    """Pods with a label, from the API of Kubernetes, which reports changes by a watch. The keys
    from `model` on apply to all of them. A pod's own labels and annotations override these
    settings.
    """

    refresh_seconds: Annotated[Seconds, Field(ge=1)] = 5.0
    """Seconds between two looks at what the watch reported, and so the longest time until a new pod
    is measured. A look costs no request."""


class _ServerLabels(Section):
    scheme: Scheme | None = None
    path: UrlPath | None = None
    name: TargetName | None = None
    model: ModelName | None = None
    labels: SeriesLabels = Field(default_factory=dict)


class ContainerLabels(_ServerLabels):
    """The labels of one container below LABEL_PREFIX, one for each of these keys."""

    port: Port | None = None
    network: NetworkName | None = None


class PodLabels(_ServerLabels):
    """The labels and annotations of one pod below LABEL_PREFIX, one for each of these keys."""

    port: PodPort | None = None


class DiscoverySettings(Section):
    """Sources that find targets in addition to the listed ones. Each source is queried again and
    again.
    """

    max_targets: Annotated[Count, Field(le=10_000)] = 1000
    """The most targets that all sources together may add. More are left out and logged, so that a
    wrong name cannot fill the memory."""

    dns: Annotated[tuple[DnsDiscovery, ...], distinct_names(DnsDiscovery, "sources")] = ()
    """DNS names that resolve to many replicas."""

    docker: Annotated[tuple[DockerDiscovery, ...], distinct_names(DockerDiscovery, "sources")] = ()
    """Docker Engines, each with the label of the containers to measure."""

    kubernetes: Annotated[
        tuple[KubernetesDiscovery, ...], distinct_names(KubernetesDiscovery, "sources")
    ] = ()
    """Clusters, each with the label of the pods to measure."""

    def sources(self) -> Mapping[str, SourceSettings]:
        """Every source by its name in logs and metrics: `dns:vllm`."""
        return {
            f"{kind}:{each.name}": each for kind in SOURCE_KINDS for each in getattr(self, kind)
        }


# The lists of sources, each with the settings of one source.
SOURCE_KINDS: Mapping[str, type[SourceSettings]] = {
    name: get_args(field.annotation)[0]
    for name, field in DiscoverySettings.model_fields.items()
    if get_args(field.annotation)
}
