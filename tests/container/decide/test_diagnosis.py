"""Causes by the traces that real failures left, and by the sentences of those not at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.container.decide.advice import WORDS
from exporter.container.decide.diagnosis import DiagnosisInput, diagnose, flag_value
from exporter.container.decide.log.loading import LoadPhase, LoadProgress, loading_phase, read_line
from exporter.container.decide.log.masking import mask
from exporter.container.decide.records import Cause, DockerProblem

LOGS = Path(__file__).parent / "logs"
NO_TOOLKIT = 'could not select device driver "" with capabilities: [[gpu]]'


def log(name: str) -> tuple[str, ...]:
    return tuple((LOGS / f"{name}.txt").read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(
    ("name", "exit_code", "cause", "in_evidence"),
    [
        ("unrecognised", 2, Cause.UNRECOGNISED_ARGUMENT, "unrecognized arguments: --disable-log"),
        ("invalid_value", 2, Cause.INVALID_ARGUMENT, "invalid choice: 'float99'"),
        ("no_such_directory", 1, Cause.MODEL_NOT_FOUND, "'/models/nothing'"),
        ("hub_unreachable", 1, Cause.HUB_UNREACHABLE, "We couldn't connect to"),
        ("kv_cache_too_small", 1, Cause.KV_CACHE_TOO_SMALL, "maximum model length is 768"),
        ("memory_in_use", 1, Cause.CUDA_OUT_OF_MEMORY, "Available memory on node 0"),
        ("port_taken", 1, Cause.PORT_TAKEN, "Address already in use"),
        ("engine_killed", 0, Cause.ENGINE_CORE_DIED, "EngineDeadError"),
        ("stopped", 0, Cause.TERMINATED, "shutdown triggered"),
        ("served", 0, Cause.EXITED, "400 Bad Request"),
        ("served", 137, Cause.KILLED, ""),
        ("served", 143, Cause.TERMINATED, ""),
    ],
)
def test_a_recorded_failure_is_named_by_its_root_cause(name, exit_code, cause, in_evidence):
    diagnosis = diagnose(DiagnosisInput(exit_code=exit_code, log=log(name)))
    assert diagnosis.cause is cause
    assert in_evidence in diagnosis.evidence


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.19 GiB. GPU 0 has a",
            Cause.CUDA_OUT_OF_MEMORY,
        ),
        (
            "RuntimeError: CUDA out of memory occurred when warming up sampler with 256 dummy",
            Cause.CUDA_OUT_OF_MEMORY,
        ),
        (
            "ValueError: Free memory on device cuda:0 (3.1/23.7 GiB) on startup is less than desired GPU memory utilization (0.9, 21.3 GiB).",
            Cause.CUDA_OUT_OF_MEMORY,
        ),
        (
            "ValueError: The model's max seq len (32768) is larger than the maximum number of tokens that can be stored in KV cache (7344).",
            Cause.KV_CACHE_TOO_SMALL,
        ),
        (
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
            Cause.KV_CACHE_TOO_SMALL,
        ),
        (
            "huggingface_hub.errors.GatedRepoError: 401 Client Error.",
            Cause.MODEL_ACCESS_DENIED,
        ),
        (
            "OSError: You are trying to access a gated repo.",
            Cause.MODEL_ACCESS_DENIED,
        ),
        (
            "huggingface_hub.errors.HfHubHTTPError: 403 Client Error: Forbidden for url: https://x",
            Cause.MODEL_ACCESS_DENIED,
        ),
        (
            "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID: Root=1)",
            Cause.MODEL_NOT_FOUND,
        ),
        ("RuntimeError: No CUDA GPUs are available", Cause.GPU_UNAVAILABLE),
        ("RuntimeError: Failed to infer device type", Cause.GPU_UNAVAILABLE),
        ("OSError: [Errno 28] No space left on device", Cause.NO_SPACE),
        (
            "OSError: [Errno 28] No space left on device: '/psm_1a2b'",
            Cause.SHARED_MEMORY_TOO_SMALL,
        ),
        (
            "(APIServer pid=1) ERROR 11-24 20:24:53 [core_client.py:700] Engine core proc EngineCore died unexpectedly, shutting down client.",
            Cause.ENGINE_CORE_DIED,
        ),
        (
            "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.",
            Cause.ENGINE_CORE_DIED,
        ),
    ],
)
def test_a_sentence_of_the_log_names_the_cause(line, cause):
    symptoms = "RuntimeError: Engine core initialization failed. See root cause above."
    assert diagnose(DiagnosisInput(exit_code=1, log=("x", line, symptoms))).cause is cause


def test_the_unknown_flag_is_named_in_the_summary_and_the_advice():
    diagnosis = diagnose(DiagnosisInput(exit_code=2, log=log("unrecognised")))
    assert "--disable-log-requests" in diagnosis.summary
    assert "Remove --disable-log-requests" in diagnosis.advice


def test_memory_advice_names_the_flag_with_its_value():
    traces = DiagnosisInput(
        exit_code=1,
        log=("torch.OutOfMemoryError: CUDA out of memory.",),
        command=("m", "--gpu-memory-utilization", "0.95", "--max-model-len=4096"),
    )
    assert "--gpu-memory-utilization (now 0.95)" in diagnose(traces).advice
    assert "--max-model-len (now 4096)" in diagnose(traces).advice


@pytest.mark.parametrize(
    ("problem", "text", "cause"),
    [
        (DockerProblem.GPU_DRIVER_MISSING, NO_TOOLKIT, Cause.GPU_TOOLKIT_MISSING),
        (DockerProblem.API_ERROR, NO_TOOLKIT, Cause.GPU_TOOLKIT_MISSING),
        (None, NO_TOOLKIT, Cause.GPU_TOOLKIT_MISSING),
        (None, "Bind for 0.0.0.0:8000 failed: port is already allocated", Cause.PORT_TAKEN),
        (None, "nvidia-container-cli: device error: 7: unknown device", Cause.GPU_UNAVAILABLE),
        (DockerProblem.PORT_TAKEN, "", Cause.PORT_TAKEN),
        (DockerProblem.NO_SPACE, "", Cause.NO_SPACE),
        (DockerProblem.IMAGE_NOT_FOUND, "", Cause.IMAGE_NOT_FOUND),
        (DockerProblem.REGISTRY_UNREACHABLE, "", Cause.REGISTRY_UNREACHABLE),
        (DockerProblem.CONFLICT, "", Cause.NAME_TAKEN),
        (DockerProblem.PERMISSION_DENIED, "", Cause.DOCKER_DENIED),
        (DockerProblem.BAD_REQUEST, "unknown log driver", Cause.DOCKER_ERROR),
        (DockerProblem.TIMEOUT, "", Cause.DOCKER_ERROR),
    ],
)
def test_dockers_own_words_come_first(problem, text, cause):
    traces = DiagnosisInput(exit_code=128, docker=problem, docker_text=text, log=log("port_taken"))
    diagnosis = diagnose(traces)
    assert diagnosis.cause is cause
    assert diagnosis.evidence == text


def test_the_kernels_word_comes_before_the_log():
    traces = DiagnosisInput(exit_code=0, oom_killed=True, log=("EngineDeadError",))
    assert diagnose(traces).cause is Cause.OOM_KILLED


def test_what_the_supervisor_saw_comes_before_the_traces_of_our_own_stop():
    traces = DiagnosisInput(
        exit_code=137, observed=Cause.HEALTH_FAILED, log=("a", "EngineDeadError", "")
    )
    diagnosis = diagnose(traces)
    assert diagnosis.cause is Cause.HEALTH_FAILED
    assert diagnosis.evidence == "EngineDeadError"


def test_a_server_that_ran_is_not_blamed_for_a_line_of_its_start():
    run = ("401 Client Error", "INFO:     Application startup complete.", "bye")
    assert diagnose(DiagnosisInput(exit_code=0, log=run)).cause is Cause.EXITED
    died = (*run, "ERROR EngineDeadError")
    assert diagnose(DiagnosisInput(exit_code=0, log=died)).cause is Cause.ENGINE_CORE_DIED


def test_a_server_that_failed_before_sigterm_failed():
    run = ("ERROR torch.OutOfMemoryError: CUDA out of memory.", *log("stopped")[-30:])
    assert diagnose(DiagnosisInput(exit_code=0, log=run)).cause is Cause.CUDA_OUT_OF_MEMORY


def test_a_warning_that_quotes_an_error_is_no_evidence():
    warning = "(APIServer pid=1) WARNING 11-24 20:22:35 [u.py:255] like `[Errno 98] x`"
    assert diagnose(DiagnosisInput(exit_code=1, log=(warning,))).cause is Cause.EXITED


def test_an_end_without_any_trace_is_an_exit():
    diagnosis = diagnose(DiagnosisInput())
    assert diagnosis.cause is Cause.EXITED
    assert diagnosis.evidence == ""
    assert "code unknown" in diagnosis.summary


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_has_words_that_can_be_filled(cause):
    assert cause in WORDS
    diagnosis = diagnose(DiagnosisInput(observed=cause))
    assert diagnosis.cause is cause
    assert "{" not in diagnosis.summary + diagnosis.advice


@given(st.lists(st.text(max_size=80), max_size=8), st.none() | st.integers(0, 255), st.booleans())
def test_any_log_at_all_gives_one_cause(lines, exit_code, oom_killed):
    diagnosis = diagnose(DiagnosisInput(exit_code=exit_code, oom_killed=oom_killed, log=lines))
    assert len(diagnosis.evidence) <= 400


TOKEN = "hf_" + "aB3" * 11


@pytest.mark.parametrize(
    "line",
    [
        f"error: unrecognized arguments: {TOKEN}",
        f"huggingface_hub.errors.GatedRepoError: 401 Client Error token={TOKEN}",
        f"[Errno 28] Authorization: Bearer {TOKEN}",
        f"EngineDeadError non-default args: {{'api_key': ['{TOKEN}'], 'dtype': 'x'}}",
    ],
)
def test_no_part_of_a_diagnosis_shows_a_token(line):
    diagnosis = diagnose(DiagnosisInput(exit_code=1, log=(line,)))
    assert TOKEN not in diagnosis.summary + diagnosis.advice + diagnosis.evidence
    assert "***" in diagnosis.evidence


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (
            "args: {'api_key': ['one', 'two'], 'hf_token': 'x'}",
            "args: {'api_key': ***, 'hf_token': ***}",
        ),
        ("Namespace(api_key='one', hf_token=None)", "Namespace(api_key=***, hf_token=None)"),
        ("--api-key one --dtype x", "--api-key *** --dtype x"),
        ("hf_overrides={}, hf_config_path=None", "hf_overrides={}, hf_config_path=None"),
        ("Loading weights took 0.00 seconds", "Loading weights took 0.00 seconds"),
    ],
)
def test_secrets_are_masked_and_nothing_else(text, masked):
    assert mask(text) == masked


@given(st.text(min_size=4, alphabet=st.characters(categories=["L", "N"])), st.text(), st.text())
def test_a_known_secret_never_survives(secret, before, after):
    masked = mask(f"{before}{secret}{after}", [secret])
    assert secret not in masked.replace("***", "\x00")


@pytest.mark.parametrize(
    ("command", "value"),
    [
        (("m", "--max-model-len", "5"), "5"),
        (("m", "--max_model_len=6"), "6"),
        (("m", "--max-model-len", "5", "--max-model-len=6"), "6"),
        (("m", "--max-model-len"), ""),
        (("m",), None),
        ((), None),
    ],
)
def test_the_last_value_of_a_flag_counts(command, value):
    assert flag_value(command, "--max-model-len") == value


def follow(lines: tuple[str, ...], progress: LoadProgress | None = None) -> LoadProgress:
    progress = progress or LoadProgress()
    for line in lines:
        progress = read_line(progress, line)
    return progress


def test_a_real_start_is_followed_from_configuring_to_serving():
    phases = [phase for line in log("served") if (phase := loading_phase(line)) is not None]
    assert phases[0] is LoadPhase.CONFIGURING
    assert phases[-1] is LoadPhase.SERVING
    assert LoadPhase.WEIGHTS_READ in phases
    progress = follow(log("served"))
    assert progress.served
    assert progress.loads == 1
    assert progress.lines == len(log("served"))
    assert progress.progress_lines == len(phases)


def test_a_start_that_failed_has_not_served():
    assert not follow(log("kv_cache_too_small")).served
    assert follow(log("unrecognised")).progress_lines == 0


@pytest.mark.parametrize(
    ("line", "phase"),
    [
        ("INFO torch.compile took 12.52 s in total", LoadPhase.COMPILING),
        ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  50%", LoadPhase.CAPTURING),
        ("Graph capturing finished in 21 secs, took 0.55 GiB", LoadPhase.CAPTURING),
        ("Time spent downloading weights for x: 31.2 seconds", LoadPhase.DOWNLOADING),
        ("Starting vLLM API server 0 on http://0.0.0.0:8000", LoadPhase.ENGINE_READY),
        ('INFO:     127.0.0.1:1 - "GET /health HTTP/1.1" 200 OK', None),
        ("", None),
    ],
)
def test_a_line_shows_its_phase(line, phase):
    assert loading_phase(line) is phase


def test_weights_read_by_many_workers_are_one_load_and_a_reload_is_another():
    took = "(Worker_TP{n} pid=1) INFO [default_loader.py:501] Loading weights took 3.1 seconds"
    progress = follow((took.format(n=0), took.format(n=1), "Model loading took 2.1 GiB memory and"))
    assert progress.loads == 1
    again = ("Reloading weights inplace...", "Reloading weights inplace...")
    done = ("Reloading and processing weights took 1.00 seconds",) * 2
    assert follow((*again, *done), progress).loads == 2
