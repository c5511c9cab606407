"""Failed starts: `simulate --like NAME` prints the log of one and exits.

As the image of a managed container it shows how the supervisor diagnoses such a log. The lines have
the format of vLLM's logger and of Python's tracebacks, with prefixes and colours.
"""

from __future__ import annotations

from dataclasses import dataclass

_CORE = "\x1b[1;36m(EngineCore_DP0 pid=272)\x1b[0;0m "
_API = "\x1b[1;36m(APIServer pid=1)\x1b[0;0m "
_WORKER = "(Worker_TP1 pid=311) "


@dataclass(frozen=True, slots=True)
class FailingStart:
    """One failed start: what goes wrong, what the exporter reports, and the printed log."""

    name: str
    server: str
    said: str
    log: tuple[str, ...]
    exit_code: int = 1


def _trace(prefix: str, *says: str) -> tuple[str, ...]:
    lines = (
        "Traceback (most recent call last):",
        '  File "/usr/lib/python3.12/site-packages/vllm/v1/engine/core.py", line 700, in run',
        "    engine_core = EngineCoreProc(*args, **kwargs)",
        *says,
    )
    return tuple(prefix + line for line in lines)


_RETRIED = (
    f"{_API}ERROR 11-21 20:24:46 [repo_utils.py:47] Error retrieving file list: 404 Client Error.",
    f"{_API}ERROR 11-21 20:24:46 [repo_utils.py:47] Repository Not Found, retrying 1 of 2",
    f"{_API}WARNING 11-21 20:24:50 [config.py:9] GatedRepoError: 401 Client Error",
)
_CORE_FAILED = f"{_CORE}ERROR 11-21 20:24:53 [core.py:708] EngineCore failed to start."
_ENDED = _trace(
    _API,
    "RuntimeError: Engine core initialization failed. See root cause above. "
    "Failed core proc(s): {}",
)

FAILING_STARTS = {
    one.name: one
    for one in (
        FailingStart(
            "start-out-of-memory",
            "Errors of the model hub that are retried, then no GPU memory.",
            "Cause `cuda_out_of_memory`, not the retried errors.",
            (
                *_RETRIED,
                _CORE_FAILED,
                *_trace(
                    _CORE,
                    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.19 GiB. GPU 0 "
                    "has a total capacity of 23.6 GiB of which 812.00 MiB is free.",
                ),
                *_ENDED,
            ),
        ),
        FailingStart(
            "start-shm-full",
            "NCCL finds /dev/shm full.",
            "Cause `shared_memory_too_small`, not a full disk.",
            (
                f"{_WORKER}ERROR 11-21 20:24:52 [multiproc_executor.py:559] WorkerProc failed.",
                *_trace(
                    _WORKER,
                    "torch.distributed.DistBackendError: NCCL error in: NCCLUtils.cpp:94, "
                    "unhandled system error, NCCL version 2.27.3",
                    "ncclSystemError: System call or external library call failed.",
                    "Last error:",
                    "Error while creating shared memory segment /dev/shm/nccl-fbIHQL (size "
                    "9637888), error: No space left on device (28)",
                ),
                *_ENDED,
            ),
        ),
        FailingStart(
            "start-invalid-value",
            "A flag with a value that vLLM refuses; the last line is a link by pydantic.",
            "Cause `invalid_argument`, with pydantic's sentence as evidence.",
            _trace(
                _API,
                "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
                "  Value error, User-specified max_model_len (999999) is greater than the derived "
                "max_model_len (max_position_embeddings=8192). [type=value_error, "
                "input_value=ArgsKwargs((), {'model': 'm'}), input_type=ArgsKwargs]",
                "    For further information visit https://errors.pydantic.dev/2.12/v/value_error",
            ),
        ),
        FailingStart(
            "start-core-failed",
            "The engine process fails; the last line does not say why.",
            "Cause `engine_core_died`, with the first exception of the engine process as evidence.",
            (
                *_RETRIED,
                _CORE_FAILED,
                *_trace(_CORE, "AssertionError: num_kv_heads must be divisible by 3"),
                *_ENDED,
            ),
        ),
    )
}
