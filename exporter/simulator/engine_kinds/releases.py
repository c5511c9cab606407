"""Releases of vLLM for `simulate --like`."""

from __future__ import annotations

from exporter.simulator.engine_kinds.profile import Profile


def _release(version: str, said: str, server: str, *, v0: bool = False) -> Profile:
    name = f"vllm-{version}-v0" if v0 else f"vllm-{version}"
    return Profile(name, server, said, settings={"version": version, "v0": v0})


RELEASES = (
    _release(
        "0.22.1",
        "A missing field means 0 once this server has sent it. Everything else is normal.",
        "vLLM 0.9.0 to 0.23.0: usage has no details if 0 tokens were cached.",
    ),
    _release("0.17.1", "The same.", "The same, with the counters and errors of 0.17."),
    _release(
        "0.10.2",
        "The same. The saved tokens come from the prefix counters.",
        "The same, with both the old and the new names of the cache's counters.",
    ),
    _release(
        "0.9.2",
        "It calls `/tokenize` without tools, so the ideal is known.",
        "The same; no token ids; `/tokenize` counts tools that the chat leaves out.",
    ),
    _release(
        "0.9.2",
        "It sends no salt while this process lives; words at the start of each prompt keep "
        "sessions apart. Notice `salt_refused`.",
        "The V0 engine of 0.9 and 0.10: 400 for every `cache_salt`, no cache counters.",
        v0=True,
    ),
    _release(
        "0.8.5",
        "Queried and hit tokens are blocks times the block size. Hit ratios per turn are unknown; "
        "notice `usage_details_missing` once the counters show hits.",
        "0.8.5 with V1: usage never has cached tokens, and the counters count blocks.",
    ),
    _release(
        "0.8.5",
        "It finds that salts are ignored; words at the start of each prompt keep sessions apart.",
        "0.8.5 with V0: salts are ignored, no cache counters.",
        v0=True,
    ),
)
