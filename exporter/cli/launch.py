"""`launch`: creates and starts a managed target's container, or prints its `docker run` line."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from exporter import logs
from exporter.cli.parsing.parser import add_settings
from exporter.cli.settings import load_settings
from exporter.container.decide.diagnosis import DiagnosisInput, diagnose
from exporter.container.decide.launch import docker_run_line, has_drifted, is_owned
from exporter.container.decide.records import INSTANCE_LABEL, ContainerStatus, DockerError
from exporter.container.docker.engine import DockerEngine, DockerLimits
from exporter.container.launching import launch_of
from exporter.container.supervisor_config import SupervisorConfig
from exporter.errors import ConfigError, ExporterError

if TYPE_CHECKING:
    import argparse

    from exporter.cli.parsing.parser import Parser
    from exporter.config import Settings, Target
    from exporter.container.decide.records import ContainerSnapshot, Launch, PullProgress
    from exporter.container.door import DockerDoor

USAGE = "[OPTIONS]"
EXAMPLES = ("launch --config exporter.toml", "launch --config exporter.toml --print")


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--target", metavar="NAME", help="the managed target, if there are several")
    parser.add_argument(
        "--print",
        action="store_true",
        dest="print_line",
        help="print the equivalent `docker run` line and start nothing",
    )
    parser.epilog = (
        "Exit code: 0 if the container runs or was started, 1 if not, 2 for wrong usage or "
        "configuration."
    )
    add_settings(parser)


def main(options: argparse.Namespace) -> int:
    settings = load_settings(options, targets_required=True).settings
    logs.configure(settings.log.format, "error")
    target = _choose(settings, options.target)
    managed = SupervisorConfig(target, settings.instance)
    launch = launch_of(target, settings.instance)
    return asyncio.run(_launch(managed, launch, print_line=options.print_line))


def _choose(settings: Settings, wanted: str | None) -> Target:
    managed = {target.name: target for target in settings.targets if target.mode == "managed"}
    if wanted is None and len(managed) == 1:
        return next(iter(managed.values()))
    if wanted not in managed:
        known = f"managed targets: {', '.join(managed)}" if managed else "no target is managed"
        raise ConfigError(f"launch needs one managed target: give --target NAME ({known})")
    return managed[wanted]


async def _launch(managed: SupervisorConfig, launch: Launch, *, print_line: bool) -> int:
    container = managed.container
    limits = DockerLimits(query=container.docker_timeout_seconds)
    engine = DockerEngine(container.docker_host, limits)
    try:
        if print_line:
            print(docker_run_line(await _as_printed(engine, managed, launch)))
            return 0
        return await _start(engine, managed, launch)
    except DockerError as error:
        raise ExporterError(f"Docker at {engine.host}: {_in_words(error)}") from error
    finally:
        await engine.close()


def _in_words(error: DockerError) -> str:
    """What is known of the cause and what to do, with Docker's own words as the evidence."""
    found = diagnose(DiagnosisInput(docker=error.problem, docker_text=error.detail))
    return f"{found.summary} ({found.evidence}) {found.advice}"


async def _as_printed(engine: DockerDoor, managed: SupervisorConfig, launch: Launch) -> Launch:
    """With the command that the image accepts; by its tag if Docker does not know the image."""
    if managed.model is None:
        return launch
    try:
        return await managed.fitted(launch, engine)
    except DockerError:
        return managed.fitted_by(launch, None)


async def _start(engine: DockerEngine, managed: SupervisorConfig, launch: Launch) -> int:
    existing = await engine.inspect(launch.name)
    if existing is not None:
        return _report_existing(existing, managed, launch)
    if not await engine.has_image(launch.image):
        print(f"pulling {launch.image}", file=sys.stderr)
        await engine.pull(launch.image, _show_progress)
    fitted = await managed.fitted(launch, engine)
    before = await _volumes(engine)
    try:
        container_id = await _created_and_started(engine, managed, fitted)
    except DockerError:
        await _remove_new_volumes(engine, fitted, before)
        raise
    print(f"{container_id[:12]} {launch.name}")
    print(
        f"started; the engine is ready when {managed.target.base_url}/health answers. Its log: "
        f"docker logs -f {launch.name}",
        file=sys.stderr,
    )
    return 0


async def _created_and_started(
    engine: DockerEngine, managed: SupervisorConfig, launch: Launch
) -> str:
    container_id = await engine.create(launch, managed.secrets)
    try:
        await engine.start(container_id)
    except DockerError:
        await engine.remove(container_id)  # it would block the next attempt
        raise
    return container_id


async def _volumes(engine: DockerEngine) -> frozenset[str] | None:
    """None if Docker does not say: a proxy may forbid the question."""
    try:
        return await engine.volumes()
    except DockerError:
        return None


async def _remove_new_volumes(
    engine: DockerEngine, launch: Launch, before: frozenset[str] | None
) -> None:
    """Remove what Docker made for a container that never ran. Older volumes have models."""
    named = {mount.source for mount in launch.mounts if not mount.source.startswith("/")}
    for name in sorted(named - before) if before is not None else ():
        with suppress(DockerError):  # another container has it by now
            await engine.remove_volume(name)


def _report_existing(existing: ContainerSnapshot, managed: SupervisorConfig, launch: Launch) -> int:
    if not is_owned(existing, managed.target.name, managed.instance):
        other = existing.labels.get(INSTANCE_LABEL)
        owner = "" if other is None else f" (it belongs to the exporter with instance = {other!r})"
        raise ExporterError(
            f"a container named {launch.name} exists, and this exporter did not create it{owner}. "
            "Remove it, or set the target's container.name"
        )
    drift = " It was created from other settings." if has_drifted(existing, launch) else ""
    print(f"{existing.id[:12]} {existing.name}")
    print(f"the container exists already and is {existing.status}.{drift}", file=sys.stderr)
    return 0 if existing.status is ContainerStatus.RUNNING else 1


def _show_progress(progress: PullProgress) -> None:
    if sys.stderr.isatty() and progress.bytes_total:
        share = progress.bytes_done / progress.bytes_total
        print(f"\r{share:6.1%} of {progress.bytes_total / 1e9:.1f} GB", end="", file=sys.stderr)
