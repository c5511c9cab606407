"""From the traces that a container's end leaves to a cause, and to advice that a person can use.

The order in which traces are believed:

1. what Docker itself said when it refused something;
2. what the supervisor saw while the container ran (it was too slow, its health failed…): the
   container was ended for that, so its exit code and its last lines only tell of our stop;
3. the kernel's word that the memory limit was hit;
4. the log of this run, by the lines that decide how it ended (see endings.py; an engine core that
   died is the symptom of nearly everything); of a run that had begun to serve only the lines
   after that, and only causes that a running server can have;
5. the exit code.

The sentences looked for are quoted from vLLM 0.32.0 (and from older versions where they differ),
huggingface_hub, transformers, PyTorch, argparse and Docker.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.container.decide.advice import WORDS
from exporter.container.decide.log.endings import Ending, plain, says_something
from exporter.container.decide.log.loading import LoadPhase, loading_phase
from exporter.container.decide.log.masking import mask
from exporter.container.decide.records import Cause, Diagnosis, DockerProblem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from exporter.container.decide.records import ContainerSnapshot

EVIDENCE_LENGTH = 400  # characters of the telling line that are kept


@dataclass(frozen=True, slots=True)
class Traces:
    """What is known of an end. `log` holds the last lines of the run that ended, oldest first.

    `seen` is the cause that the supervisor itself saw, and `seen_text` what it saw. `command` is
    the container's command, from which the values of flags are quoted. `listens` says where the
    container can be reached.
    """

    exit_code: int | None = None
    oom_killed: bool = False
    docker: DockerProblem | None = None
    docker_text: str = ""
    log: Sequence[str] = ()
    seen: Cause | None = None
    seen_text: str = ""
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

# A rule is a cause and the sentences that tell of it. The first rule that has a line wins.
_Rule = tuple[Cause, tuple[str, ...]]

# Docker's text names the cause also where the door had no name for it, and in a container's
# State.Error, which inspect shows after a refused start.
_IN_DOCKER_TEXT: tuple[_Rule, ...] = (
    # Said through a toolkit that is installed: it did not find the driver that it needs.
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

# Causes that end a start.
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
    (Cause.MODEL_ACCESS_DENIED, (r"40[13] Client Error",)),  # the hub names a missing one 401 too
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

# Causes that a start and a running server can have.
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

# Where the traceback of a full disk leads through these it is the container's shared memory.
_SHARED = re.compile(r"shared_memory|_posixshmem|/dev/shm")
_NCCL_SHARED = re.compile(r"NCCL.*(/dev/shm|No space left on device|posix_fallocate)")

_Compiled = list[tuple[Cause, re.Pattern[str]]]


def _compiled(rules: Iterable[_Rule], flags: int = 0) -> _Compiled:
    return [(cause, re.compile("|".join(sentences), flags)) for cause, sentences in rules]


_DOCKER_RULES = _compiled(_IN_DOCKER_TEXT, re.IGNORECASE)
_START_RULES = _compiled((*_IN_START_LOG, *_IN_ANY_LOG))
_SERVING_RULES = _compiled(_IN_ANY_LOG)
# vLLM's answer to SIGTERM (entrypoints/launchers/launcher.py). It ends with code 0 then, and what
# it logs while it ends looks like an engine core that died.
_TOLD_TO_STOP = "API server: shutdown triggered"
_BY_EXIT_CODE = {137: Cause.KILLED, 143: Cause.TERMINATED}


def diagnose(traces: Traces) -> Diagnosis:
    """The cause that the traces tell of. There always is one: EXITED where nothing is known."""
    refusal = _refused_by_docker(traces)
    if refusal is not None:
        return _told(traces, refusal, traces.docker_text)
    if traces.seen is not None:
        return _told(traces, traces.seen, traces.seen_text or _last_line(traces.log))
    if traces.oom_killed:
        return _told(traces, Cause.OOM_KILLED, _last_line(traces.log))
    found = _in_log(traces)
    if found is not None:
        cause, line, what = found
        return _told(traces, cause, line, what)
    cause = _BY_EXIT_CODE.get(traces.exit_code or 0, Cause.EXITED)
    failed = cause is Cause.EXITED and traces.exit_code
    evidence = Ending.of(traces.log).evidence() if failed else ""
    return _told(traces, cause, evidence or _last_line(traces.log))


def _refused_by_docker(traces: Traces) -> Cause | None:
    by_words = _by_rules(traces.docker_text, _DOCKER_RULES)
    if by_words is not None and by_words[0] in _OF_GPUS:
        return by_words[0]  # more exact than the door's one name for all that concerns GPUs
    known = _BY_DOCKER_PROBLEM.get(traces.docker) if traces.docker is not None else None
    if known is not None:
        return known
    if by_words is not None:
        return by_words[0]
    return Cause.DOCKER_ERROR if traces.docker is not None or traces.docker_text else None


def _in_log(traces: Traces) -> tuple[Cause, str, str] | None:
    """Cause, telling line and what the line names, by the lines that decide; None: none tells."""
    log = traces.log
    served = [n for n, line in enumerate(log) if loading_phase(line) is LoadPhase.SERVING]
    own = log[served[-1] + 1 :] if served else log
    told_to_stop = next((n for n, line in enumerate(own) if _TOLD_TO_STOP in line), None)
    ending = Ending.of(own[:told_to_stop])
    found = _specific(ending, _SERVING_RULES if served else _START_RULES)
    if found is not None:
        return found
    if ending.symptoms:
        return Cause.ENGINE_CORE_DIED, ending.evidence(), ""
    return None if told_to_stop is None else (Cause.TERMINATED, own[told_to_stop], "")


def _specific(ending: Ending, rules: _Compiled) -> tuple[Cause, str, str] | None:
    deciding = ending.deciding()
    for number in deciding if ending.sends_elsewhere else reversed(deciding):
        found = _by_rules(ending.lines[number], rules)
        if found is not None:
            cause, line, what = found
            if cause is Cause.NO_SPACE and _SHARED.search(ending.of_one_exception(number)):
                cause = Cause.SHARED_MEMORY_TOO_SMALL
            return cause, line, what
    # NCCL writes its reason before the exception, which only says that NCCL failed.
    if any("NCCL" in ending.lines[number] for number in deciding):
        told = (line for line in reversed(ending.lines) if _NCCL_SHARED.search(line))
        return next(((Cause.SHARED_MEMORY_TOO_SMALL, line, "") for line in told), None)
    return None


def _by_rules(line: str, rules: _Compiled) -> tuple[Cause, str, str] | None:
    for cause, pattern in rules:
        match = pattern.search(line)
        if match is not None:
            return cause, line, (match.groupdict().get("what") or "").strip()
    return None


def _last_line(log: Sequence[str]) -> str:
    """The last line that says something."""
    return next((plain(line) for line in reversed(log) if says_something(line)), "")


def listens(container: ContainerSnapshot) -> str:
    """Where a container can be reached, in words, by what Docker says of it."""
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


def _told(traces: Traces, cause: Cause, evidence: str, what: str = "") -> Diagnosis:
    facts = {
        "what": mask(what),
        "exit_code": "unknown" if traces.exit_code is None else traces.exit_code,
        "utilization": flag_value(traces.command, "--gpu-memory-utilization") or "the default",
        "listens": traces.listens or "see `docker inspect`",
        "max_model_len": flag_value(traces.command, "--max-model-len") or "the model's own",
    }
    words = WORDS[cause]
    return Diagnosis(
        cause=cause,
        summary=words.summary.format_map(facts),
        advice=words.advice.format_map(facts),
        evidence=mask(evidence.strip())[:EVIDENCE_LENGTH],
    )
