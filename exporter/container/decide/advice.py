"""Each cause in words: what happened, and what a person can do.

In braces: `what` the telling line named, `exit_code`, where it `listens`, and the values of two of
vLLM's flags.
"""

from __future__ import annotations

from typing import NamedTuple

from exporter.container.decide.records import Cause


class Words(NamedTuple):
    """A summary that says what happened, and advice that says what to do."""

    summary: str
    advice: str


WORDS: dict[Cause, Words] = {
    Cause.GPU_TOOLKIT_MISSING: Words(
        "Docker has no NVIDIA driver to give GPUs to a container.",
        "Install the NVIDIA Container Toolkit on Docker's host, run `nvidia-ctk runtime configure "
        "--runtime=docker` and restart Docker; or ask for 0 GPUs.",
    ),
    Cause.GPU_UNAVAILABLE: Words(
        "No usable GPU was found.",
        "Check `nvidia-smi` on Docker's host, the GPU ids that the container asks for, and that "
        "the driver is new enough for the CUDA version of the image.",
    ),
    Cause.GPU_DRIVER: Words(
        "The NVIDIA driver of Docker's host does not work: it is not loaded, or its library is of "
        "another version, as after an update.",
        "Reload the driver (`sudo rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia; sudo modprobe "
        "nvidia`) or reboot the host. `nvidia-smi` there says the same until it works. The "
        "container toolkit is installed.",
    ),
    Cause.CUDA_OUT_OF_MEMORY: Words(
        "vLLM did not get the memory that it wanted.",
        "Lower --gpu-memory-utilization (now {utilization}), or --max-model-len (now "
        "{max_model_len}) or --max-num-seqs; look for other processes on the same GPU.",
    ),
    Cause.KV_CACHE_TOO_SMALL: Words(
        "The KV cache has no room for one request of the longest length ({max_model_len}).",
        "Lower --max-model-len (the line of the log names a length that fits), or raise "
        "--gpu-memory-utilization (now {utilization}).",
    ),
    Cause.MODEL_ACCESS_DENIED: Words(
        "The Hugging Face hub refused access to the model.",
        "Give a valid HF_TOKEN (or HF_TOKEN_FILE) of an account that has accepted the model's "
        "terms on its page.",
    ),
    Cause.MODEL_NOT_FOUND: Words(
        "There is no such model, or it is private and the token does not open it.",
        "Check the model's name; a path must be mounted into the container; a private model "
        "needs an HF_TOKEN.",
    ),
    Cause.HUB_UNREACHABLE: Words(
        "The model is not in the cache and the Hugging Face hub does not answer.",
        "Check the network and the proxy settings of the container, or mount a Hugging Face cache "
        "that has the model.",
    ),
    Cause.UNRECOGNISED_ARGUMENT: Words(
        "vLLM does not know the argument {what}.",
        "Remove {what} from args, or take the name that this version of vLLM knows: "
        "`vllm serve --help=all` lists them.",
    ),
    Cause.INVALID_ARGUMENT: Words(
        "vLLM refuses a value: {what}.",
        "Correct that value in the settings of the container.",
    ),
    Cause.PORT_TAKEN: Words(
        "The port is taken by another process or container.",
        "Choose another host port, or stop what listens there: `ss -ltnp` and `docker ps` show it.",
    ),
    Cause.NO_SPACE: Words(
        "A disk is full.",
        "Free space where Docker keeps its data and where the Hugging Face cache is: `df -h` and "
        "`docker system df` show how much is left.",
    ),
    Cause.SHARED_MEMORY_TOO_SMALL: Words(
        "The container's shared memory is too small.",
        "Give it the host's IPC namespace (--ipc host) or a larger --shm-size.",
    ),
    Cause.IMAGE_NOT_FOUND: Words(
        "The registry does not have the image, or does not show it without a login.",
        "Check the image's name and tag; for a private registry, `docker login` on Docker's host.",
    ),
    Cause.REGISTRY_UNREACHABLE: Words(
        "The image is not on this machine and its registry does not answer.",
        "Check the network of Docker's host, or load the image by hand: `docker pull` or "
        "`docker load`.",
    ),
    Cause.NAME_TAKEN: Words(
        "A container of that name exists and was not made by this exporter for this target.",
        "Choose another name, remove that container yourself, or watch it in attached mode. "
        "It is left alone.",
    ),
    Cause.OTHER_EXPORTER: Words(
        "Another exporter looks after a container of that name, for a target of the same name. It "
        "is left alone.",
        "Give one of the two targets another name. If that exporter is gone for good, set instance "
        "to its value, or remove the container: `docker rm -f`.",
    ),
    Cause.DOCKER_DENIED: Words(
        "Docker, or the proxy before its socket, does not allow this.",
        "Managed mode needs more of Docker's API than attached mode: see the allow-lists.",
    ),
    Cause.DOCKER_ERROR: Words(
        "Docker could not do what it was asked.",
        "Its own words are the evidence; the log of the Docker daemon may say more.",
    ),
    Cause.ENGINE_CORE_DIED: Words(
        "vLLM's engine process died, and its server ended with it (code {exit_code}).",
        "The container's log has the trace; a GPU fault also shows in `dmesg` as Xid.",
    ),
    Cause.OOM_KILLED: Words(
        "The kernel killed a process at the container's memory limit.",
        "Raise the memory limit of the container, or lower what vLLM keeps in host memory (KV "
        "offloading, the size of the model while it is read).",
    ),
    Cause.KILLED: Words(
        "Somebody or something killed it (SIGKILL, code 137).",
        "`docker events` and the kernel's log say who: a person, another supervisor, or the "
        "kernel when the whole host ran out of memory.",
    ),
    Cause.TERMINATED: Words(
        "Somebody or something told it to stop (SIGTERM, code {exit_code}).",
        "If that was on purpose, tell the exporter to hold the target, so that it stays down.",
    ),
    Cause.START_TIMEOUT: Words(
        "It did not become ready before its deadline.",
        "If the log shows that it was still at work, raise the start deadline: reading weights "
        "and compiling can take half an hour.",
    ),
    Cause.LOADING_HANGS: Words(
        "It stopped telling of progress while it was starting.",
        "The evidence is the last line of its log. Slow storage and a hub that does not answer are "
        "the usual reasons; raise the quiet deadline if it was only slow.",
    ),
    Cause.HEALTH_FAILED: Words(
        "/health failed too often in a row.",
        "Look at the container's log before the restart, and at `nvidia-smi` for GPU faults.",
    ),
    Cause.PROBES_FAILED: Words(
        "Probe sessions failed although /health answers.",
        "The failures of the sessions say how; an engine that hangs on a GPU fault looks like "
        "this.",
    ),
    Cause.BUSY: Words(
        "Its checks fail and its own counters advance: it is slow, not dead. It is not restarted.",
        "Look for the load: the requests that run and wait, other programs on the same processors "
        "or GPU. Raise health_timeout_seconds and the probe's timeouts if this is its usual pace.",
    ),
    Cause.ADDRESS: Words(
        "The container is up, and nothing of it is reached at the target's url. The address is "
        "wrong, not the engine: it is not restarted.",
        "Compare url with where the container listens: {listens}. Port, host name, scheme and "
        "network have to fit. The names of containers are known within a Docker network of their "
        "own only, and 127.0.0.1 within a container is that container. Changed settings of the "
        "container itself need one that is made anew: on_drift, or `docker rm -f`.",
    ),
    Cause.RESTART_LIMIT: Words(
        "It is unwell again, after as many restarts within an hour as restarts_per_hour allows. It "
        "stays as it is until the hour is over.",
        "Restarts do not mend it: look at the container's log and at `nvidia-smi`. "
        "`docker restart` restarts it now.",
    ),
    Cause.REMOVED: Words(
        "The container was removed by somebody.",
        "If that was on purpose, tell the exporter to hold the target, so that it stays away.",
    ),
    Cause.PAUSED: Words(
        "Somebody paused the container.",
        "`docker unpause` lets it go on. Tell the exporter to hold the target before pausing it.",
    ),
    Cause.WRONG_MODEL: Words(
        "vLLM serves another model than it was told to load.",
        "Its image takes the model in another way than its tag or entrypoint says: use an official "
        "image of 0.12 or later, or give the whole command line in command.",
    ),
    Cause.CONFIG_CHANGED: Words(
        "The settings changed and the container is made anew, as configured.",
        "Nothing to do.",
    ),
    Cause.RESTARTED_ELSEWHERE: Words(
        "It was started again by somebody else: a restart policy, compose or a person.",
        "Let only one of them restart it.",
    ),
    Cause.EXITED: Words(
        "It ended by itself (code {exit_code}) and its log does not say why.",
        "Look at the container's log.",
    ),
}
