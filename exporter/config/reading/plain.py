"""Fills settings from the plain variables that are often set for vLLM already.

They describe one engine, so they fill the only target. If there is no target, VLLM_HOST or MODEL_ID
creates one of mode `external`, by default at 127.0.0.1:8000; with discovery only VLLM_HOST does.
With several targets they are ignored, with a message.

| variable | a `managed` target | any other target |
| --- | --- | --- |
| VLLM_HOST | `url` | `url`; a host, host:port or URL, with or without /v1 |
| PORT | `container.host_port` | the port of `url` where VLLM_HOST names none and no `url` is set |
| MODEL_ID | `container.model` | `model` |
| HF_TOKEN, HF_TOKEN_FILE | `container.hf_token`, `container.hf_token_file` | ignored |
| GPU_MEM_UTIL | `container.gpu_memory_utilization` | ignored |
| MAX_MODEL_LEN | `container.max_model_len` | ignored |
"""

import re
from collections.abc import Iterable, Sequence

from exporter.config.reading.merge import Merged
from exporter.config.reading.origin import GivenValue, Mistake
from exporter.config.reading.sources import PlainVariable
from exporter.config.schema.discovery import SOURCE_KINDS
from exporter.config.schema.keys import Key
from exporter.config.schema.reach import VLLM_PORT

_TARGET: Key = ("targets", 0)
_CONTAINER = (*_TARGET, "container")
_CONTAINER_KEYS = {
    "MODEL_ID": "model",
    "HF_TOKEN": "hf_token",
    "HF_TOKEN_FILE": "hf_token_file",
    "GPU_MEM_UTIL": "gpu_memory_utilization",
    "MAX_MODEL_LEN": "max_model_len",
    "PORT": "host_port",
}


def fill_in(plains: Sequence[PlainVariable], merged: Merged) -> tuple[str, ...]:
    """Put the plain variables into the tree. Returns a message for each one without effect.

    They come in order of rising priority, so the last one of a name counts.
    """
    found = {plain.name: plain for plain in plains}
    targets = merged.tree.get("targets", [])
    if isinstance(targets, list) and len(targets) > 1:
        return _ignored(found.values(), f"it can set only one target, and there are {len(targets)}")
    if not targets and "VLLM_HOST" not in found:
        if any(merged.get(("discovery", kind)) for kind in SOURCE_KINDS):
            return _ignored(found.values(), "it can set only one target, and discovery finds many")
        if "MODEL_ID" not in found:
            return _ignored(found.values(), "there is no target")
    _refuse_two_tokens(found, merged)
    if merged.get((*_TARGET, "mode")) == "managed":
        return _fill_managed(found, merged)
    return _fill_other(found, merged, is_new=not targets)


def _fill_managed(found: dict[str, PlainVariable], merged: Merged) -> tuple[str, ...]:
    for name, key in _CONTAINER_KEYS.items():
        if name in found and not (name == "MODEL_ID" and merged.get((*_CONTAINER, "command"))):
            _fill(merged, (*_CONTAINER, key), found[name])
    if "VLLM_HOST" in found:
        _fill_url(found["VLLM_HOST"], found.get("PORT"), merged)
    return ()


def _fill_other(
    found: dict[str, PlainVariable], merged: Merged, *, is_new: bool
) -> tuple[str, ...]:
    used = {"MODEL_ID", "VLLM_HOST"}
    if "MODEL_ID" in found:
        _fill(merged, (*_TARGET, "model"), found["MODEL_ID"])
    if "VLLM_HOST" in found:
        if _fill_url(found["VLLM_HOST"], found.get("PORT"), merged):
            used.add("PORT")
    elif "PORT" in found and merged.get((*_TARGET, "url")) is None:
        used.add("PORT")
        if _is_port(found["PORT"], merged):
            _fill(merged, (*_TARGET, "url"), found["PORT"], _local_url(found["PORT"].text))
    elif "MODEL_ID" in found and is_new:
        _fill(merged, (*_TARGET, "url"), found["MODEL_ID"], _local_url(str(VLLM_PORT)))
    unused = {name: plain for name, plain in found.items() if name not in used}
    port = [unused.pop("PORT")] if "PORT" in unused else []
    return (
        *_ignored(port, "url contains a port"),
        *_ignored(unused.values(), 'it applies only to mode "managed"'),
    )


def _fill_url(host: PlainVariable, port: PlainVariable | None, merged: Merged) -> bool:
    """Set the URL from VLLM_HOST. Returns whether it used PORT."""
    if "://" in host.text:
        _fill(merged, (*_TARGET, "url"), host)
        return False
    text, slash, path = host.text.partition("/")
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"
    takes_port = re.search(r":[^\]]*$", text) is None
    if takes_port:
        if port is not None and not _is_port(port, merged):
            return True
        text = f"{text}:{port.text if port is not None else str(VLLM_PORT)}"
    _fill(merged, (*_TARGET, "url"), host, f"http://{text}{slash}{path}")
    return takes_port


def _local_url(port: str) -> str:
    return f"http://127.0.0.1:{port}"


def _is_port(plain: PlainVariable, merged: Merged) -> bool:
    if re.fullmatch(r"[0-9]{1,5}", plain.text) and 0 < int(plain.text) <= 65535:  # noqa: PLR2004 - TCP
        return True
    message = "must be a port from 1 to 65535"
    merged.mistakes.append(Mistake(plain.origin.text, message, value=f'"{plain.text}"'))
    return False


def _fill(merged: Merged, key: Key, plain: PlainVariable, value: str | None = None) -> None:
    merged.fill(GivenValue(key, plain.text if value is None else value, plain.origin))


def _refuse_two_tokens(found: dict[str, PlainVariable], merged: Merged) -> None:
    token, file = found.get("HF_TOKEN"), found.get("HF_TOKEN_FILE")
    if token and file and token.origin.priority == file.origin.priority:
        message = "is set together with HF_TOKEN_FILE: keep one of them"
        merged.mistakes.append(Mistake(token.origin.text, message))


def _ignored(plains: Iterable[PlainVariable], reason: str) -> tuple[str, ...]:
    return tuple(f"{plain.origin.text} has no effect: {reason}" for plain in plains)
