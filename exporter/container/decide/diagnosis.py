"""The cause of a failure, with evidence and advice.

Sources, the most reliable first:

1. what Docker said when it refused something;
2. what the supervisor observed while the container ran (a start that took too long, failed health
   checks…): it stopped the container for that, so exit code and last lines only show the stop;
3. OOMKilled: the kernel enforced the memory limit;
4. the log of this run, by the lines that decide (see endings.py; a dead engine core is the symptom
   of nearly everything). Of a run that served only the lines after that count, and only causes
   that a running server can have;
5. the exit code.

The patterns quote vLLM 0.32.0 (and older versions where they differ), huggingface_hub,
transformers, PyTorch, argparse and Docker.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.container.decide.advice import WORDS
from exporter.container.decide.log.endings import Ending, has_content, plain
from exporter.container.decide.log.loading import LoadPhase, loading_phase
from exporter.container.decide.log.masking import mask
from exporter.container.decide.records import Cause, Diagnosis, DockerProblem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from exporter.container.decide.records import ContainerSnapshot

EVIDENCE_LENGTH = 400  # characters


@dataclass(frozen=True, slots=True)
class DiagnosisInput:
    """What is known of a failure. `log` has the last lines of the run that ended, oldest first.

    `observed` is a cause that the supervisor observed itself, `observed_text` its evidence. The
    advice quotes values of flags from `command`, the container's command, and `listens`, where the
    container can be reached.
    """

    exit_code: int | None = None
    oom_killed: bool = False
    docker: DockerProblem | None = None
    docker_text: str = ""
    log: Sequence[str] = ()
    observed: Cause | None = None
    observed_text: str = ""
    command: Sequence[str] = ()
    listens: str = ""


_BY_DOCKER_PROBLEM = {
    DockerProblem.GPU_DRIVER_MISSING: Cause.GPU_TOOLKIT_MISSING,
    DockerProblem.IMAGE_NOT_FOUND: Cause.IMAGE_NOT_FOUND,
    DockerProblem.REGISTRY_UNREACHABLE: Cause.REGISTRY_UNREACHABLE,
    DockerProblem.PORT_TAKEN: Cause.PORT_TAKEN,
    DockerProblem.NO_SPACE: Cause.NO_SPACE,
    DockerProblem.CONFLICT: Cause.NAME_TAKEN,
    DockerProblem.PERMISSION_DENIED: Cause.DOCKER_DENIED,
}

# A cause and the patterns that show it. The first rule that matches a line wins.
_Rule = tuple[Cause, tuple[str, ...]]

# For Docker's messages without a DockerProblem of their own, and for a container's State.Error,
# which inspect shows after a refused start.
_IN_DOCKER_TEXT: tuple[_Rule, ...] = (
    # Messages of an installed NVIDIA Container Toolkit that did not find the driver.
    (
        Cause.GPU_DRIVER,
        (r"nvml error: driver", r"driver/library version mismatch", r"libnvidia-ml\.so"),
    ),
    (
        Cause.GPU_TOOLKIT_MISSING,
        (
            r"could not select device driver .*capabilities: \[\[gpu\]\]",
            r"failed to discover GPU vendor",
            r"unresolvable CDI devices",
            r"invalid runtime name: nvidia",
            r"nvidia-container-runtime\S*: .*not found",
        ),
    ),
    (Cause.GPU_UNAVAILABLE, (r"nvidia-container-cli: ", r"nvml error")),
    (Cause.PORT_TAKEN, (r"port is already allocated", r"address already in use")),
    (Cause.NO_SPACE, (r"no space left on device",)),
    (Cause.IMAGE_NOT_FOUND, (r"no such image", r"manifest unknown", r"pull access denied")),
)

_OF_GPUS = frozenset({Cause.GPU_DRIVER, Cause.GPU_TOOLKIT_MISSING, Cause.GPU_UNAVAILABLE})

# Causes of a failed start.
_IN_START_LOG: tuple[_Rule, ...] = (
    (Cause.UNRECOGNISED_ARGUMENT, (r"error: unrecognized arguments: (?P<what>.+)",)),
    (Cause.INVALID_ARGUMENT, (r"error: (?P<what>(argument -\S+: |ambiguous option: ).+)",)),
    (
        Cause.MODEL_ACCESS_DENIED,
        (
            r"GatedRepoError",
            r"Cannot access gated repo",
            r"You are trying to access a gated repo",
            r"Access to model .* is restricted",
            r"Invalid user token",
            r"Invalid credentials in Authorization header",
        ),
    ),
    (
        Cause.MODEL_NOT_FOUND,
        (
            r"RepositoryNotFoundError",
            r"Repository Not Found for url",
            r"RevisionNotFoundError",
            r"Repo id must be in the form",
            r"is not a local folder and is not a valid model identifier",
            r"Invalid repository ID or local directory specified",
        ),
    ),
    (Cause.MODEL_ACCESS_DENIED, (r"40[13] Client Error",)),  # 401 also for a missing model
    (
        Cause.HUB_UNREACHABLE,
        (
            r"We couldn't connect to '[^']+' to load the files",
            r"LocalEntryNotFoundError",
            r"OfflineModeIsEnabled",
        ),
    ),
    (
        Cause.GPU_UNAVAILABLE,
        (
            r"No CUDA GPUs are available",
            r"Found no NVIDIA driver",
            r"Failed to infer device type",
            r"CUDA driver version is insufficient",
            r"no CUDA-capable device is detected",
        ),
    ),
    (
        Cause.GPU_DRIVER,
        (r"Driver/library version mismatch", r"libcuda\.so\.1: cannot open shared object"),
    ),
    (
        Cause.KV_CACHE_TOO_SMALL,
        (
            r"To serve at least one request with the model's max seq len",
            r"larger than the maximum number of tokens that can be stored in KV cache",
            r"No available memory for the cache blocks",
        ),
    ),
    (
        Cause.CUDA_OUT_OF_MEMORY,
        (r"less than desired (GPU|CPU) memory utilization", r"less than the engine's budget"),
    ),
    (Cause.PORT_TAKEN, (r"\[Errno 98\]",)),
    (
        Cause.INVALID_ARGUMENT,
        (
            r"(Value error, )?(?P<what>\S[^\[]*?) \[type=\w+, input_value=",  # pydantic
            r"ValueError: (?P<value>User-specified max_model_len .+)",
        ),
    ),
)

# Causes of a failed start or a failed server.
_IN_ANY_LOG: tuple[_Rule, ...] = (
    (
        Cause.CUDA_OUT_OF_MEMORY,
        (
            r"CUDA out of memory",
            r"CUDA error: out of memory",
            r"HIP out of memory",
            r"OutOfMemoryError: (CUDA|HIP)",
        ),
    ),
    (
        Cause.SHARED_MEMORY_TOO_SMALL,
        (
            r"insufficient shared memory",
            r"No space left on device: '/(dev/shm|psm_)",
            r"/dev/shm/.*No space left on device",  # noqa: S108 - a text, not a path
            r"(shared memory object|write to file) </torch_.*No space left on device",
        ),
    ),
    (
        Cause.NO_SPACE,
        (r"\[Errno 28\]", r"No space left on device", r"[Nn]ot enough free disk space"),
    ),
)

# A "disk full" traceback with one of these is about the container's shared memory.
_SHARED = re.compile(r"shared_memory|_posixshmem|/dev/shm")
_NCCL_SHARED = re.compile(r"NCCL.*(/dev/shm|No space left on device|posix_fallocate)")

_Compiled = list[tuple[Cause, re.Pattern[str]]]


def _compiled(rules: Iterable[_Rule], flags: int = 0) -> _Compiled:
    return [(cause, re.compile("|".join(sentences), flags)) for cause, sentences in rules]


_DOCKER_RULES = _compiled(_IN_DOCKER_TEXT, re.IGNORECASE)
_START_RULES = _compiled((*_IN_START_LOG, *_IN_ANY_LOG))
_SERVING_RULES = _compiled(_IN_ANY_LOG)
# vLLM logs this after SIGTERM (entrypoints/launchers/launcher.py) and exits with code 0. What it
# logs after that looks like a dead engine core.
_SIGTERM_LINE = "API server: shutdown triggered"
_BY_EXIT_CODE = {137: Cause.KILLED, 143: Cause.TERMINATED}


def diagnose(known: DiagnosisInput) -> Diagnosis:
    """The cause, with evidence and advice. EXITED where nothing is known."""
    refusal = _refused_by_docker(known)
    if refusal is not None:
        return _diagnosis(known, refusal, known.docker_text)
    if known.observed is not None:
        return _diagnosis(known, known.observed, known.observed_text or _last_line(known.log))
    if known.oom_killed:
        return _diagnosis(known, Cause.OOM_KILLED, _last_line(known.log))
    found = _in_log(known)
    if found is not None:
        cause, line, what = found
        return _diagnosis(known, cause, line, what)
    cause = _BY_EXIT_CODE.get(known.exit_code or 0, Cause.EXITED)
    failed = cause is Cause.EXITED and known.exit_code
    evidence = Ending.of(known.log).evidence() if failed else ""
    return _diagnosis(known, cause, evidence or _last_line(known.log))


def _refused_by_docker(known: DiagnosisInput) -> Cause | None:
    by_words = _by_rules(known.docker_text, _DOCKER_RULES)
    if by_words is not None and by_words[0] in _OF_GPUS:
        return by_words[0]  # more exact than GPU_DRIVER_MISSING
    by_problem = _BY_DOCKER_PROBLEM.get(known.docker) if known.docker is not None else None
    if by_problem is not None:
        return by_problem
    if by_words is not None:
        return by_words[0]
    return Cause.DOCKER_ERROR if known.docker is not None or known.docker_text else None


def _in_log(known: DiagnosisInput) -> tuple[Cause, str, str] | None:
    """Cause, the line that shows it, and what it names; None where no line shows a cause."""
    log = known.log
    served = [n for n, line in enumerate(log) if loading_phase(line) is LoadPhase.SERVING]
    own = log[served[-1] + 1 :] if served else log
    sigterm = next((n for n, line in enumerate(own) if _SIGTERM_LINE in line), None)
    ending = Ending.of(own[:sigterm])
    found = _specific(ending, _SERVING_RULES if served else _START_RULES)
    if found is not None:
        return found
    if ending.symptoms:
        return Cause.ENGINE_CORE_DIED, ending.evidence(), ""
    return None if sigterm is None else (Cause.TERMINATED, own[sigterm], "")


def _specific(ending: Ending, rules: _Compiled) -> tuple[Cause, str, str] | None:
    deciding = ending.deciding()
    for number in deciding if ending.points_elsewhere else reversed(deciding):
        found = _by_rules(ending.lines[number], rules)
        if found is not None:
            cause, line, what = found
            if cause is Cause.NO_SPACE and _SHARED.search(ending.of_one_exception(number)):
                cause = Cause.SHARED_MEMORY_TOO_SMALL
            return cause, line, what
    # NCCL logs its reason before the exception, which only says that NCCL failed.
    if any("NCCL" in ending.lines[number] for number in deciding):
        lines = (line for line in reversed(ending.lines) if _NCCL_SHARED.search(line))
        return next(((Cause.SHARED_MEMORY_TOO_SMALL, line, "") for line in lines), None)
    return None


def _by_rules(line: str, rules: _Compiled) -> tuple[Cause, str, str] | None:
    for cause, pattern in rules:
        match = pattern.search(line)
        if match is not None:
            return cause, line, (match.groupdict().get("what") or "").strip()
    return None


def _last_line(log: Sequence[str]) -> str:
    """The last line with content."""
    return next((plain(line) for line in reversed(log) if has_content(line)), "")


def listens(container: ContainerSnapshot) -> str:
    """Where a container can be reached, in words."""
    published = [
        f"port {inside} is published at {address}:{port}"
        for inside, (address, port) in container.published_ports.items()
    ]
    networks = [
        f"in the network {name} it is {address}" if address else f"it is in the network {name}"
        for name, address in container.networks.items()
    ]
    return "; ".join([*published, *networks])


def flag_value(command: Sequence[str], flag: str) -> str | None:
    """The last value of `flag` in a command line, written `--flag value` or `--flag=value`."""
    value = None
    for position, word in enumerate(command):
        name, equals, rest = word.partition("=")
        if name.replace("_", "-") == flag:
            value = rest if equals else "".join(command[position + 1 : position + 2])
    return value


def _diagnosis(known: DiagnosisInput, cause: Cause, evidence: str, what: str = "") -> Diagnosis:
    facts = {
        "what": mask(what),
        "exit_code": "unknown" if known.exit_code is None else known.exit_code,
        "utilization": flag_value(known.command, "--gpu-memory-utilization") or "the default",
        "listens": known.listens or "see `docker inspect`",
        "max_model_len": flag_value(known.command, "--max-model-len") or "the model's own",
    }
    words = WORDS[cause]
    return Diagnosis(
        cause=cause,
        summary=words.summary.format_map(facts),
        advice=words.advice.format_map(facts),
        evidence=mask(evidence.strip())[:EVIDENCE_LENGTH],
    )
