"""The families of the exporter itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.metrics.readers import Reader, by, counter, gauge, one

if TYPE_CHECKING:
    from exporter.metrics.readers import Family
    from exporter.metrics.state.exporter import ExporterState, Loops


EXPORTER: Final[tuple[Family[ExporterState], ...]] = (
    gauge(
        "vllm_exporter_build_info",
        Reader(
            ("version", "revision", "python"),
            lambda state: [((state.version, state.revision or "", state.python), 1)],
        ),
        "1, with the versions of the exporter and of Python as labels, and the revision that the "
        "exporter was built from. A label is empty when it is unknown, as in a checkout.",
    ),
    gauge(
        "vllm_exporter_targets",
        one(lambda state: state.targets),
        "Targets that the exporter measures now.",
    ),
    gauge(
        "vllm_exporter_whole_page",
        one(lambda state: state.whole_page),
        "1 when /metrics shows the families of every target. 0 when there are more targets than "
        "metrics.whole_page_targets; then only /metrics?target=NAME shows those of a target.",
    ),
    gauge(
        "vllm_exporter_web_config_in_force",
        one(lambda state: state.web_config_in_force),
        "1 when the current content of the web configuration's files is in force. 0 when a mistake "
        "in them keeps the old content in force. Absent without such a file.",
    ),
    gauge(
        "vllm_exporter_config_last_reload_successful",
        one(lambda state: state.reloads.last_successful),
        "1 when the configuration that was last read is in force. 0 when a mistake in it keeps the "
        "old one in force.",
    ),
    gauge(
        "vllm_exporter_config_last_reload_success_timestamp_seconds",
        one(lambda state: state.reloads.last_success_time),
        "Unix time at which the configuration in force was read.",
    ),
    counter(
        "vllm_exporter_config_reloads_total",
        by("outcome", lambda state: state.reloads.outcomes),
        "Reloads of the configuration, by outcome.",
    ),
    counter(
        "vllm_exporter_otlp_exports_total",
        Reader(("signal", "outcome"), lambda state: state.otlp.exports.items()),
        "Exports over OTLP, by signal (metrics, traces) and outcome (success, failure). One that "
        "was repeated within its timeout counts once. Only where OTLP is on.",
    ),
    counter(
        "vllm_exporter_otlp_dropped_sessions_total",
        one(lambda state: state.otlp.dropped_sessions),
        "Sessions and heartbeats whose spans are lost: the receiver refused them for good, or was "
        "away until too many waited. Only where traces are sent.",
    ),
)

LOOPS: Final[tuple[Family[Loops], ...]] = (
    counter(
        "vllm_exporter_loop_failures_total",
        by("loop", lambda loops: loops.failures),
        "Rounds of a loop that ended in an unexpected exception. A loop of a target has the name "
        "KIND:TARGET, and is on the target's page.",
    ),
    gauge(
        "vllm_exporter_loop_last_run_timestamp_seconds",
        by("loop", lambda loops: loops.last_run),
        "Unix time at which a loop last ended a round.",
    ),
)
