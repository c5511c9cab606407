"""How vLLM's logs end, and which of their lines tell why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.container.decide.diagnosis import DiagnosisInput, diagnose
from exporter.container.decide.log.endings import plain
from exporter.container.decide.records import Cause, DockerProblem

C = Cause
CORE = "\x1b[1;36m(EngineCore_DP0 pid=272)\x1b[0;0m "
API = "\x1b[1;36m(APIServer pid=1)\x1b[0;0m "
WORKER = "(Worker_TP1 pid=311) "


def error(process: str, place: str, *says: str) -> list[str]:
    """One message of vLLM's logger, whose lines all have its prefix."""
    return [f"{process}ERROR 09-21 20:24:53 [{place}] {each}" for each in says]


def traceback(*says: str, prefix: str = "") -> list[str]:
    """What Python prints of an exception, as some process writes it."""
    lines = [
        "Traceback (most recent call last):",
        '  File "/usr/lib/python3.12/site-packages/vllm/v1/engine/core.py", line 700, in run',
        "    engine_core = EngineCoreProc(*args, **kwargs)",
        "                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^",
        *says,
    ]
    return [prefix + each for each in lines]


INIT_FAILED = traceback(
    "RuntimeError: Engine core initialization failed. See root cause above. CountedFailure core proc(s): {}",
    prefix=API,
)
CORE_FAILED = error(CORE, "core.py:708", "EngineCore failed to start.")
WORKER_FAILED = "Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace for root cause."
EXIT_NOISE = [
    "/usr/lib/python3.12/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 leaked shared_memory objects to clean up at shutdown",
    "  warnings.warn('resource_tracker: There appear to be %d '",
    "[rank0]:[W921 20:24:55.1 ProcessGroupNCCL.cpp:1479] Warning: WARNING: destroy_process_group() was not called before program exit",
]
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.19 GiB. GPU 0 has a total capacity of 23.6 GiB"
# vLLM's with_retry: an error that it tries again, message by message.
HUB_RETRIED = [
    *error(
        API,
        "repo_utils.py:47",
        "Error retrieving file list: 404 Client Error. (Request ID: Root=1-68)",
        "",
        "Repository Not Found for url: https://huggingface.co/api/models/models/tiny/tree/main.",
        "Please make sure you specified the correct `repo_id` and `repo_type`., retrying 1 of 2",
    ),
    "'(ReadTimeoutError(\"HTTPSConnectionPool(host='huggingface.co', port=443): Read timed out.\"))' thrown while requesting HEAD https://huggingface.co/m/resolve/main/config.json",
    "Retrying in 1s [Retry 1/5].",
    f"{API}WARNING 09-21 20:24:50 [config.py:9] GatedRepoError: 401 Client Error",
]

ENDINGS: dict[str, tuple[list[str], Cause, str]] = {
    "memory, after retries of the hub": (
        [*HUB_RETRIED, *CORE_FAILED, *traceback(OOM, prefix=CORE), *INIT_FAILED],
        C.CUDA_OUT_OF_MEMORY,
        "CUDA out of memory",
    ),
    "memory, logged by the core": (
        [
            *HUB_RETRIED,
            *error(CORE, "core.py:708", "EngineCore failed to start.", *traceback(OOM)),
            *INIT_FAILED,
        ],
        C.CUDA_OUT_OF_MEMORY,
        "CUDA out of memory",
    ),
    "a reason that no rule knows, in the core": (
        [
            *HUB_RETRIED,
            *CORE_FAILED,
            *traceback("AssertionError: num_kv_heads must divide 3", prefix=CORE),
            *INIT_FAILED,
        ],
        C.ENGINE_CORE_DIED,
        "AssertionError: num_kv_heads must divide 3",
    ),
    "nothing but the symptom": (
        [*HUB_RETRIED, *INIT_FAILED],
        C.ENGINE_CORE_DIED,
        "Engine core initialization failed",
    ),
    "the first of several ranks": (
        [
            *error(WORKER, "multiproc_executor.py:559", "WorkerProc failed to start."),
            *traceback(OOM, prefix=WORKER),
            *error(
                "(Worker_TP0 pid=310) ", "multiproc_executor.py:559", "WorkerProc failed to start."
            ),
            *traceback(
                "OSError: [Errno 28] No space left on device", prefix="(Worker_TP0 pid=310) "
            ),
            *CORE_FAILED,
            *traceback(WORKER_FAILED, prefix=CORE),
            *INIT_FAILED,
        ],
        C.CUDA_OUT_OF_MEMORY,
        "CUDA out of memory",
    ),
    "nccl in a full /dev/shm, told by its exception": (
        [
            *error(WORKER, "multiproc_executor.py:559", "WorkerProc failed to start."),
            *traceback(
                "torch.distributed.DistBackendError: NCCL error in: NCCLUtils.cpp:94, unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.27.3",
                "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.",
                "Last error:",
                "Error while creating shared memory segment /dev/shm/nccl-fbIHQL (size 9637888), error: No space left on device (28)",
                prefix=WORKER,
            ),
            *INIT_FAILED,
        ],
        C.SHARED_MEMORY_TOO_SMALL,
        "/nccl-fbIHQL",
    ),
    "nccl in a full /dev/shm, told beside its exception": (
        [
            "gpu1:311:405 [1] misc/shmutils.cc:87 NCCL WARN Error: failed to extend /dev/shm/nccl-x to 33030532 bytes, error: No space left on device (28)",
            "gpu1:311:405 [1] include/alloc.h:228 NCCL WARN Call to posix_fallocate failed: No space left on device",
            *traceback(
                "RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)"
            ),
            *INIT_FAILED,
        ],
        C.SHARED_MEMORY_TOO_SMALL,
        "NCCL WARN",
    ),
    "a segment of shared memory": (
        traceback(
            '  File "/usr/lib/python3.12/multiprocessing/shared_memory.py", line 120, in __init__',
            "    os.ftruncate(self._fd, size)  # of a SharedMemory in shared_memory",
            "OSError: [Errno 28] No space left on device",
        ),
        C.SHARED_MEMORY_TOO_SMALL,
        "[Errno 28]",
    ),
    "torch's own shared memory": (
        traceback(
            "RuntimeError: unable to write to file </torch_123_1_0>: No space left on device (28)"
        ),
        C.SHARED_MEMORY_TOO_SMALL,
        "</torch_",
    ),
    "a full disk": (
        traceback(
            "OSError: [Errno 28] No space left on device: '/root/.cache/huggingface/hub/x.incomplete'"
        ),
        C.NO_SPACE,
        "/root/.cache/huggingface",
    ),
    "pydantic": (
        traceback(
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
            "  Value error, User-specified max_model_len (999999) is greater than the derived max_model_len (max_position_embeddings=8192). [type=value_error, input_value=ArgsKwargs((), {'model': 'm'}), input_type=ArgsKwargs]",
            "    For further information visit https://errors.pydantic.dev/2.12/v/value_error",
            prefix=API,
        ),
        C.INVALID_ARGUMENT,
        "User-specified max_model_len (999999)",
    ),
    "pydantic about a type": (
        traceback(
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for CacheConfig",
            "block_size",
            "  Input should be 1, 8, 16 or 32 [type=literal_error, input_value=7, input_type=int]",
            "    For further information visit https://errors.pydantic.dev/2.12/v/literal_error",
        ),
        C.INVALID_ARGUMENT,
        "Input should be 1, 8, 16 or 32",
    ),
    "a model that is in pydantic's words": (
        traceback(
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
            "  Value error, Invalid repository ID or local directory specified: '/models/none'. [type=value_error, input_value=ArgsKwargs((), {}), input_type=ArgsKwargs]",
            "    For further information visit https://errors.pydantic.dev/2.12/v/value_error",
        ),
        C.MODEL_NOT_FOUND,
        "/models/none",
    ),
    "a chain whose first exception is another": (
        [
            *traceback(
                "requests.exceptions.HTTPError: 404 Client Error: Not Found for url: https://x"
            ),
            "",
            "The above exception was the direct cause of the following exception:",
            "",
            *traceback("OSError: You are trying to access a gated repo."),
        ],
        C.MODEL_ACCESS_DENIED,
        "gated repo",
    ),
    "an exception that was dealt with before the last one": (
        [
            *traceback("huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error."),
            f"{API}INFO 09-21 20:24:54 [model.py:1] Using the local files",
            *traceback("ZeroDivisionError: division by zero"),
        ],
        C.EXITED,
        "ZeroDivisionError",
    ),
    "an end by the first V0 engine": (
        [
            *traceback(OOM),
            *traceback(
                "RuntimeError: Engine process failed to start. See stack trace for the root cause."
            ),
        ],
        C.CUDA_OUT_OF_MEMORY,
        "CUDA out of memory",
    ),
    "a worker that names the reason itself": (
        traceback(
            "RuntimeError: Worker failed with error 'CUDA out of memory. Tried to allocate 2 GiB', please check the stack trace above for the root cause"
        ),
        C.CUDA_OUT_OF_MEMORY,
        "CUDA out of memory",
    ),
    "a port": (
        [*HUB_RETRIED, *traceback("OSError: [Errno 98] Address already in use", prefix=API)],
        C.PORT_TAKEN,
        "Address already in use",
    ),
    "a flag": (
        [
            "usage: vllm serve [model_tag] [options]",
            "vllm: error: unrecognized arguments: --enable-x",
        ],
        C.UNRECOGNISED_ARGUMENT,
        "--enable-x",
    ),
    "a driver": (
        traceback(
            "RuntimeError: CountedFailure to initialize NVML: Driver/library version mismatch"
        ),
        C.GPU_DRIVER,
        "Driver/library version mismatch",
    ),
    "an exit": (
        [f"{API}INFO 09-21 20:24:54 [x.py:1] a", "something is wrong here"],
        C.EXITED,
        "something is wrong here",
    ),
}


@pytest.mark.parametrize("name", list(ENDINGS))
@pytest.mark.parametrize("noise", [[], EXIT_NOISE, ["", "   "]], ids=["bare", "noise", "blank"])
def test_an_ending_is_named_by_the_line_that_decides(name, noise):
    lines, cause, evidence = ENDINGS[name]
    diagnosis = diagnose(DiagnosisInput(exit_code=1, log=[*lines, *noise]))
    assert diagnosis.cause is cause
    assert evidence in diagnosis.evidence
    assert "errors.pydantic.dev" not in diagnosis.evidence
    assert "\x1b" not in diagnosis.evidence + diagnosis.summary


HARMLESS = st.sampled_from(
    [
        [],
        HUB_RETRIED,
        [f"{API}WARNING 09-21 20:20:00 [a.py:1] torch.OutOfMemoryError: CUDA out of memory."],
        [f"{CORE}INFO 09-21 20:20:00 [a.py:1] No space left on device is what one would see"],
        error(API, "hub.py:9", "GatedRepoError: 401 Client Error, retrying 2 of 2"),
        ["Retrying in 8s [Retry 4/5]."],
        ["INFO:     Started server process [1]"],
    ]
)


@given(st.lists(HARMLESS, max_size=4), st.sampled_from(list(ENDINGS)))
def test_what_was_harmless_before_an_ending_does_not_change_it(before, name):
    lines, cause, _ = ENDINGS[name]
    log = [line for several in before for line in several] + lines
    assert diagnose(DiagnosisInput(exit_code=1, log=log)).cause is cause


@given(st.sampled_from(list(ENDINGS)), st.integers(0, 107))
def test_colours_change_nothing(name, colour):
    lines, cause, evidence = ENDINGS[name]
    log = [f"\x1b[{colour}m{plain(line)}\x1b[0m" for line in lines]
    diagnosis = diagnose(DiagnosisInput(exit_code=1, log=log))
    assert diagnosis.cause is cause
    assert evidence in diagnosis.evidence


def test_of_a_server_that_served_an_old_error_is_not_why_its_core_died():
    log = [
        "INFO:     Application startup complete.",
        *error(API, "serving.py:1", "OSError: [Errno 28] No space left on device"),
        *error(CORE, "core.py:720", "EngineCore encountered a fatal error."),
        *traceback("torch.AcceleratorError: CUDA error: an illegal memory access", prefix=CORE),
        *traceback(
            "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.",
            prefix=API,
        ),
    ]
    diagnosis = diagnose(DiagnosisInput(exit_code=0, log=log))
    assert diagnosis.cause is Cause.ENGINE_CORE_DIED
    assert "an illegal memory access" in diagnosis.evidence


START_REFUSED = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: "
    "runc create failed: unable to start container process: error during container init: error "
    "running prestart hook #0: exit status 1, stdout: , stderr: Auto-detected mode as 'legacy'\n"
    "nvidia-container-cli: "
)


@pytest.mark.parametrize(
    "problem", [None, DockerProblem.API_ERROR, DockerProblem.GPU_DRIVER_MISSING]
)
@pytest.mark.parametrize(
    ("text", "cause", "advice"),
    [
        (
            f"{START_REFUSED}initialization error: nvml error: driver/library version mismatch: unknown",
            Cause.GPU_DRIVER,
            "reboot",
        ),
        (
            f"{START_REFUSED}initialization error: nvml error: driver not loaded: unknown",
            Cause.GPU_DRIVER,
            "Reload",
        ),
        (
            f"{START_REFUSED}initialization error: load library failed: libnvidia-ml.so.1: cannot open shared object file",
            Cause.GPU_DRIVER,
            "driver",
        ),
        (f"{START_REFUSED}device error: 7: unknown device: unknown", Cause.GPU_UNAVAILABLE, "ids"),
        (
            f"{START_REFUSED}requirement error: unsatisfied condition: cuda>=12.8, please update your driver to a newer version",
            Cause.GPU_UNAVAILABLE,
            "new enough",
        ),
        (
            'could not select device driver "" with capabilities: [[gpu]]',
            Cause.GPU_TOOLKIT_MISSING,
            "Install the NVIDIA Container Toolkit",
        ),
        (
            "failed to discover GPU vendor from CDI: no known GPU vendor found",
            Cause.GPU_TOOLKIT_MISSING,
            "Install the NVIDIA Container Toolkit",
        ),
        (
            "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=all",
            Cause.GPU_TOOLKIT_MISSING,
            "Install the NVIDIA Container Toolkit",
        ),
        ("unknown or invalid runtime name: nvidia", Cause.GPU_TOOLKIT_MISSING, "nvidia-ctk"),
    ],
)
def test_a_refused_gpu_is_the_drivers_or_the_toolkits(problem, text, cause, advice):
    diagnosis = diagnose(DiagnosisInput(exit_code=128, docker=problem, docker_text=text))
    assert diagnosis.cause is cause
    assert advice in diagnosis.advice
