"""Each notice in words: what it means for the numbers, and what to do."""

from __future__ import annotations

from exporter.model import Notice

ADVICE: dict[Notice, str] = {
    Notice.SIMULATED: (
        "The engine is SIMULATED: these numbers describe a simulator, not a model server."
    ),
    Notice.USAGE_DETAILS_MISSING: (
        "The server does not report cached tokens, so no hit ratio is exported. "
        "Start vLLM with --enable-prompt-tokens-details."
    ),
    Notice.USAGE_MISSING: (
        "The server sends no usage at the end of a stream, so tokens are unknown. "
        "Something between this exporter and vLLM drops stream_options.include_usage."
    ),
    Notice.PREFIX_CACHING_DISABLED: (
        "Prefix caching is switched off on this server, so every token is computed anew. "
        "Start vLLM without --no-enable-prefix-caching."
    ),
    Notice.TOKEN_IDS_MISSING: (
        "The server does not return token ids, so the ideal and the efficiency are unknown. "
        "vLLM gives them for return_token_ids since 0.10.2."
    ),
    Notice.MATCH_UNIT_UNKNOWN: (
        "The size of a cache block is unknown, so the ideal and the efficiency are too. "
        "vLLM's /metrics says it in vllm:cache_config_info: check that /metrics can be reached "
        "and that the server runs without --disable-log-stats."
    ),
    Notice.FIRST_TURN_NOT_COLD: (
        "The first turn of a session under a salt never used before hit the cache: "
        "this server ignores cache_salt, so the ratios include what other requests left behind."
    ),
    Notice.HIT_BEYOND_IDEAL: (
        "The server reported more cached tokens than exact-prefix caching can give this session, "
        "so the ideal and the efficiency of that turn are not exported. The cache block may be "
        "smaller than vllm:cache_config_info says, or another cache (an external KV store) helped."
    ),
    Notice.SCENARIO_SHORTENED: (
        "The model's context is too short for the whole scenario with eight cache blocks in its "
        "first prompt, so the session was made to fit: fewer blocks or fewer turns, and coarser "
        "hit ratios. Raise --max-model-len."
    ),
}
