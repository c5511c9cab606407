"""The configuration: settings, the origin of their values, and mistakes in them.

Code outside this package imports from here.
"""

from exporter.config.reading.arguments import (
    add_arguments,
    add_short_flags,
    collected,
    load_from,
)
from exporter.config.reading.load import Loaded, load
from exporter.config.reading.mistakes import words_of
from exporter.config.schema.container import BackoffSettings, ContainerSettings
from exporter.config.schema.discovery import (
    EVERY_NAMESPACE,
    LABEL_PREFIX,
    ContainerLabels,
    DiscoverySettings,
    DnsDiscovery,
    DockerDiscovery,
    KubernetesDiscovery,
    PodLabels,
    SourceSettings,
)
from exporter.config.schema.otlp import OtlpSettings
from exporter.config.schema.settings import ProbeSettings, ScrapeSettings, Settings
from exporter.config.schema.target import RankChoice, Target
from exporter.config.schema.values import ListenAddress, is_url
from exporter.config.telling.describe import describe, describe_json

__all__ = [
    "EVERY_NAMESPACE",
    "LABEL_PREFIX",
    "BackoffSettings",
    "ContainerLabels",
    "ContainerSettings",
    "DiscoverySettings",
    "DnsDiscovery",
    "DockerDiscovery",
    "KubernetesDiscovery",
    "ListenAddress",
    "Loaded",
    "OtlpSettings",
    "PodLabels",
    "ProbeSettings",
    "RankChoice",
    "ScrapeSettings",
    "Settings",
    "SourceSettings",
    "Target",
    "add_arguments",
    "add_short_flags",
    "collected",
    "describe",
    "describe_json",
    "is_url",
    "load",
    "load_from",
    "words_of",
]
