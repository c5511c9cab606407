"""Each cause in words: what happened, and what to do.

Placeholders: `what` is the argument or value that the log names, `exit_code` the container's exit
code, `listens` where the container listens, `utilization` and `max_model_len` the values of these
two flags of vLLM.
"""

from __future__ import annotations

from typing import NamedTuple

from exporter.container.decide.records import Cause


class Words(NamedTuple):
    """The summary says what happened, the advice what to do."""

    summary: str
    advice: str


WORDS: dict[Cause, Words] = {
    Cause.GPU_TOOLKIT_MISSING: Words(
        "Docker has no NVIDIA driver to give GPUs to a container.",
        "Install the NVIDIA Container Toolkit on Docker's host, run `nvidia-ctk runtime configure "
        "--runtime=docker` and restart Docker. Or set gpus = 0.",
    ),
    Cause.GPU_UNAVAILABLE: Words(
        "The container finds no usable GPU.",
        "Run `nvidia-smi` on Docker's host. Check the GPU ids in gpus, and that the driver is new "
        "enough for the CUDA version of the image.",
    ),
    Cause.GPU_DRIVER: Words(
        "The NVIDIA driver on Docker's host does not work. It is not loaded, or its library has "
        "another version, as after an update.",
        "Reload the driver (`sudo rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia; sudo modprobe "
        "nvidia`) or reboot the host. It is fixed when `nvidia-smi` works there. The NVIDIA "
        "Container Toolkit is installed; leave it as it is.",
    ),
    Cause.CUDA_OUT_OF_MEMORY: Words(
        "vLLM could not allocate the memory that it needs.",
        "Lower --gpu-memory-utilization (now {utilization}), --max-model-len (now "
        "{max_model_len}) or --max-num-seqs. Look for other processes on the same GPU.",
    ),
    Cause.KV_CACHE_TOO_SMALL: Words(
        "The KV cache is too small for one request of the maximum length ({max_model_len}).",
        "Lower --max-model-len (the log line names a length that fits), or raise "
        "--gpu-memory-utilization (now {utilization}).",
    ),
    Cause.MODEL_ACCESS_DENIED: Words(
        "The Hugging Face hub refused access to the model.",
        "Set HF_TOKEN (or HF_TOKEN_FILE) to a valid token. Its account must have accepted the "
        "terms on the model's page.",
    ),
    Cause.MODEL_NOT_FOUND: Words(
        "The model does not exist, or it is private and the token gives no access to it.",
        "Check the model's name. A path must be mounted into the container. A private model needs "
        "HF_TOKEN.",
    ),
    Cause.HUB_UNREACHABLE: Words(
        "The model is not in the cache, and the Hugging Face hub does not answer.",
        "Check the network and the proxy settings of the container, or mount a Hugging Face cache "
        "that holds the model.",
    ),
    Cause.UNRECOGNISED_ARGUMENT: Words(
        "vLLM does not know the argument {what}.",
        "Remove {what} from args, or use its name in this version of vLLM: `vllm serve --help=all` "
        "lists all flags.",
    ),
    Cause.INVALID_ARGUMENT: Words(
        "vLLM refuses a value: {what}.",
        "Correct this value in the container's settings.",
    ),
    Cause.PORT_TAKEN: Words(
        "Another process or container uses the port.",
        "Set another host_port, or stop the program that uses the port: `ss -ltnp` and `docker ps` "
        "show it.",
    ),
    Cause.NO_SPACE: Words(
        "A disk is full.",
        "Free space on the disks of Docker's data directory and of the Hugging Face cache: `df -h` "
        "and `docker system df` show how much is left.",
    ),
    Cause.SHARED_MEMORY_TOO_SMALL: Words(
        "The container's shared memory is too small.",
        "Set a larger shm_size (--shm-size), or ipc_host = true (--ipc host).",
    ),
    Cause.IMAGE_NOT_FOUND: Words(
        "The registry does not have the image, or requires a login.",
        "Check the image's name and tag. For a private registry run `docker login` on Docker's "
        "host.",
    ),
    Cause.REGISTRY_UNREACHABLE: Words(
        "The image is not on Docker's host, and its registry does not answer.",
        "Check the network of Docker's host, or load the image by hand with `docker pull` or "
        "`docker load`.",
    ),
    Cause.NAME_TAKEN: Words(
        "A container of this name exists, and this exporter did not create it for this target. "
        "The exporter does not touch it.",
        "Set another name, remove the container yourself, or use mode attached to watch it.",
    ),
    Cause.OTHER_EXPORTER: Words(
        "Another exporter manages a container of this name, for a target of the same name. This "
        "exporter does not touch it.",
        "Rename one of the two targets. If the other exporter no longer exists, set instance to "
        "its value, or remove the container: `docker rm -f`.",
    ),
    Cause.DOCKER_DENIED: Words(
        "Docker, or the proxy in front of its socket, does not allow this call.",
        "Mode managed needs more of Docker's API than mode attached: allow the calls "
        "that the page on access to Docker lists for it.",
    ),
    Cause.DOCKER_ERROR: Words(
        "Docker reported an error.",
        "The evidence is Docker's message. The log of the Docker daemon may say more.",
    ),
    Cause.ENGINE_CORE_DIED: Words(
        "vLLM's engine process died, and its server exited with it (exit code {exit_code}).",
        "Look for the traceback in the container's log, and for Xid errors of the GPU in `dmesg`.",
    ),
    Cause.OOM_KILLED: Words(
        "The kernel killed a process because the container reached its memory limit.",
        "Raise memory_limit, or make vLLM use less host memory (KV offloading, a smaller model).",
    ),
    Cause.KILLED: Words(
        "Something outside vLLM killed the container (SIGKILL, exit code 137).",
        "Look in `docker events` and in the kernel's log. It can be a person, another supervisor, "
        "or the kernel when the whole host ran out of memory.",
    ),
    Cause.TERMINATED: Words(
        "Something outside vLLM stopped the container (SIGTERM, exit code {exit_code}).",
        "If you stopped it on purpose, create the target's hold_file, and the exporter does not "
        "start it again.",
    ),
    Cause.START_TIMEOUT: Words(
        "The container was not ready before its start deadline.",
        "If its log still showed progress, raise start_deadline_seconds: reading weights and "
        "compiling can take half an hour.",
    ),
    Cause.LOADING_HANGS: Words(
        "The container wrote nothing to its log for too long while it started.",
        "The evidence is the last line of the log. Usual reasons are slow storage and a hub that "
        "does not answer. If it is only slow, raise quiet_deadline_seconds.",
    ),
    Cause.HEALTH_FAILED: Words(
        "/health failed too many times in a row.",
        "Look at the container's log before the restart, and at `nvidia-smi` for GPU faults.",
    ),
    Cause.PROBES_FAILED: Words(
        "Probe sessions failed although /health answers.",
        "Look at why the sessions failed. An engine that hangs after a GPU fault looks like this.",
    ),
    Cause.BUSY: Words(
        "Its checks fail, but its own counters advance: it is slow, not dead. The exporter does "
        "not restart it.",
        "Look at the load: running and waiting requests, other programs on the same CPUs or GPU. "
        "If this is its normal speed, raise health_timeout_seconds and the probe's timeouts.",
    ),
    Cause.ADDRESS: Words(
        "The container is up, but vLLM does not answer at the target's url. The address is wrong, "
        "not the engine: the exporter does not restart it.",
        "Compare url with where the container listens: {listens}. Port, host name, scheme and "
        "network must match. Container names work only inside a user-defined Docker network, and "
        "inside a container 127.0.0.1 is that container. Changed settings of the container take "
        "effect when it is created again: set on_drift = recreate, or run `docker rm -f`.",
    ),
    Cause.RESTART_LIMIT: Words(
        "It is unhealthy again after as many restarts within an hour as restarts_per_hour allows. "
        "The exporter does not restart it until the hour is over.",
        "Restarts do not help. Look at the container's log and at `nvidia-smi`. Run "
        "`docker restart` to restart it now.",
    ),
    Cause.REMOVED: Words(
        "Something other than this exporter removed the container.",
        "If you removed it on purpose, create the target's hold_file, and the exporter does not "
        "create it again.",
    ),
    Cause.PAUSED: Words(
        "The container is paused.",
        "Run `docker unpause`. Next time create the target's hold_file before you pause it.",
    ),
    Cause.WRONG_MODEL: Words(
        "vLLM serves another model than the settings say.",
        "The image takes the model in another way than its tag or entrypoint suggests. Use an "
        "official image of vLLM 0.12 or later, or set the whole command line in command.",
    ),
    Cause.CONFIG_CHANGED: Words(
        "The settings changed, and the exporter creates the container again, as on_drift says.",
        "Nothing to do.",
    ),
    Cause.RESTARTED_ELSEWHERE: Words(
        "Something other than this exporter restarted the container: a restart policy, Compose or "
        "a person.",
        "Let only one supervisor restart it.",
    ),
    Cause.EXITED: Words(
        "The container exited (exit code {exit_code}), and its log does not say why.",
        "Look at the container's log.",
    ),
}
