"""Checks a container's `args`: only flags that this vLLM knows and the exporter does not set."""

import re
from collections.abc import Mapping, Sequence

# Of vLLM's own command line (vllm serve 0.32.0 --help and its history since 0.8.5).
_NEVER = {
    "--enable-metrics": "is not a flag of vLLM, which always serves /metrics: leave it out",
    "--host": "is set by the exporter: use host_ip for the published address",
    "--port": "is set by the exporter: use host_port for the published port",
    "--uds": "cannot be used, because the exporter connects by TCP: use host_ip and host_port",
    "--config": "would hide flags from the exporter: write them in args",
    "--model": "has its own key: use model",
    "--served-model-name": "has its own key: use served_model_name",
    "--api-key": "must not be on a command line, where other users can read it: "
    "use the target's api_key or api_key_file",
    "--hf-token": "must not be on a command line, where other users can read it: "
    "use hf_token or hf_token_file",
    "--no-enable-prompt-tokens-details": "has its own key: "
    "use enable_prompt_tokens_details = false",
}
# Flags that a setting of the exporter also sets: both together would contradict.
_OWN = {
    "--gpu-memory-utilization": "gpu_memory_utilization",
    "--max-model-len": "max_model_len",
    "--block-size": "block_size",
    "--enable-prefix-caching": "prefix_caching",
    "--no-enable-prefix-caching": "prefix_caching",
}
# 0.15.1 still accepts it; 0.17 stops with "unrecognized arguments".
_LOG_REQUESTS_GONE = (0, 17)


def version_of(image: str) -> tuple[int, int] | None:
    """Major and minor version of vLLM from the image's tag, such as `:v0.32.0-cu129`."""
    found = re.search(r":v?(\d+)\.(\d+)(?:[.\-+][^/:@]*)?(?:@.*)?$", image)
    return (int(found[1]), int(found[2])) if found else None


def flag_of(argument: str) -> str | None:
    """The flag's name as vLLM reads it: `--max_model_len=4096` is `--max-model-len`."""
    if not argument.startswith("--"):
        return None
    return argument.split("=", 1)[0].replace("_", "-")


def flag_mistakes(
    args: Sequence[object], image: str | None, own: Mapping[str, object]
) -> list[tuple[int, str]]:
    """Position and message of each argument that is not allowed.

    `own` holds the exporter's settings for the same flags; None is not set.
    """
    found = []
    for position, argument in enumerate(args):
        message = _wrong_with(argument, image, own) if isinstance(argument, str) else None
        if message is not None:
            found.append((position, message))
    return found


def secret_mistakes(command: Sequence[object]) -> list[tuple[int, str]]:
    """The same for a whole command line, where only secrets are wrong, also inside a script."""
    found = []
    for position, word in enumerate(command):
        flag = re.search(r"--(api[-_]key|hf[-_]token)\b", word) if isinstance(word, str) else None
        if flag is not None:
            found.append((position, _NEVER[flag[0].replace("_", "-")]))
    return found


def _wrong_with(argument: str, image: str | None, own: Mapping[str, object]) -> str | None:
    flag = flag_of(argument)
    if flag is None:
        return None
    if re.search(r"\s", flag):
        return "must be two entries: the flag and its value"
    if flag in _NEVER:
        return _NEVER[flag]
    version = version_of(image or "")
    if flag == "--disable-log-requests" and version and version >= _LOG_REQUESTS_GONE:
        return (
            "is unknown to vLLM since 0.17, so the server would not start: "
            "use --no-enable-log-requests"
        )
    key = _OWN.get(flag)
    if key is not None and own.get(key) is not None:
        return f"contradicts the key {key}, which is also set: keep one of them"
    return None
