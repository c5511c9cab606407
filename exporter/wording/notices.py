"""What each notice, failure and loss means for the numbers, and what to do about it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.model.failure import FailureReason
from exporter.model.session import BreakReason, LossCause, Notice

if TYPE_CHECKING:
    from exporter.model.session import PrefixBreak

CACHING_ON = (
    "Start vLLM without --no-enable-prefix-caching. If that flag is not set, vLLM itself turned "
    "caching off for this model or platform, and its log says why."
)
"""The remedy where `enable_prefix_caching` is False, as vLLM sets it for MLA on a CPU."""

REPORT_CACHED = (
    "Start vLLM with --enable-prompt-tokens-details. If the flag is set, either this engine cannot "
    "report cached tokens, like the V1 engine of vLLM 0.8 and the V0 engine on a CPU, or a proxy "
    "between this exporter and vLLM drops usage.prompt_tokens_details."
)
"""The remedy where no answer has cached tokens. Nothing shows whether the flag is set."""

ADVICE: dict[Notice, str] = {
    Notice.SIMULATED: (
        "The engine is SIMULATED: these numbers describe a simulator, not a model server."
    ),
    Notice.USAGE_DETAILS_MISSING: (
        f"The server does not report cached tokens, so hit ratios are unknown. {REPORT_CACHED}"
    ),
    Notice.CACHED_TOKENS_UNKNOWN: (
        "An answer has no cached tokens in its usage, and neither other answers nor the engine's "
        "counters show whether there were any. vLLM before 0.24 leaves the number out when it is "
        f"0. So either no prompt has hit the cache yet, or none is ever reported. {REPORT_CACHED}"
    ),
    Notice.USAGE_MISSING: (
        "The server sends no usage at the end of a stream, so token counts are unknown. "
        "A proxy between this exporter and vLLM drops stream_options.include_usage."
    ),
    Notice.USAGE_UNUSABLE: (
        "The usage of at least one answer is wrong: a value is missing, is not a number, or is "
        "larger than the prompt. The token counts of that turn are unknown; its times are known. "
        "Look for a proxy between this exporter and vLLM that rewrites answers."
    ),
    Notice.PREFIX_CACHING_DISABLED: (
        f"Prefix caching is off on this server, so every prompt is computed in full. {CACHING_ON}"
    ),
    Notice.TOKEN_IDS_MISSING: (
        "Token ids are missing, so an ideal and an efficiency that depend on them are unknown. "
        "Either the server does not return them (vLLM does since 0.10.2, with return_token_ids) "
        "and /tokenize does not give those of the prompts, or an answer has fewer ids than tokens, "
        "which happens when a parser drops some."
    ),
    Notice.MATCH_UNIT_UNKNOWN: (
        "The size of a cache block is unknown, so the ideal and the efficiency are unknown too. "
        "vLLM reports it at /metrics in vllm:cache_config_info. Check that /metrics can be reached "
        "and that the server runs without --disable-log-stats."
    ),
    Notice.REUSE_RULE_UNKNOWN: (
        "What this engine can serve of a known prefix is not known yet, so the efficiency is "
        "unknown too: too few turns hit undisturbed, or no rule explains all hits."
    ),
    Notice.MATCH_UNIT_DIFFERS: (
        "Hits are multiples of another number of tokens than vllm:cache_config_info says, as on "
        "hybrid models. The exporter takes the number from the hits. Until they show it, the "
        "efficiency is unknown."
    ),
    Notice.FIRST_TURN_NOT_COLD: (
        "The first turn of a session hit the cache although its first message begins with random "
        "words. This server ignores cache_salt, and its chat template puts text before the first "
        "message that other requests share. The ideal of that turn is not exported."
    ),
    Notice.HIT_BEYOND_IDEAL: (
        "The server reported more cached tokens than exact-prefix caching can give this session, "
        "so the ideal and the efficiency of that turn are not exported. The cache block may be "
        "smaller than vllm:cache_config_info says, or another cache (an external KV store) helped."
    ),
    Notice.SCENARIO_SHORTENED: (
        "The model's context is too short for the whole scenario with eight cache blocks in its "
        "first prompt. The session was shortened to fewer blocks or fewer turns, so its hit ratios "
        "are coarser. Raise --max-model-len."
    ),
    Notice.OPENING_SHORT: (
        "The first prompt of this scenario file fills fewer than two cache blocks, so its early "
        "turns can hit little or nothing on this engine. Record a longer first prompt, or use a "
        "built-in scenario, which is always long enough."
    ),
    Notice.PREFIX_UNSTABLE: (
        "The chat template changed earlier text, so a prompt did not begin with the turn before "
        "it, and the cache cannot serve anything after the change. Start vLLM with --chat-template "
        "and a template that only appends. `check` shows where it changed."
    ),
    Notice.CACHE_WEDGED: (
        "The prefix cache has stopped hitting although it has room. The engine computed an "
        "identical prompt again that was sent twice in a row, and the same engine process had hits "
        "before. Restart vLLM; nothing else is known to help."
    ),
    Notice.SALT_IGNORED: (
        "This server ignores cache_salt: vLLM before 0.9 does not know it, and elsewhere a session "
        "with a new salt hit the cache, as with some external KV stores. The exporter therefore "
        "begins each session's first message with random words. That keeps sessions apart, so the "
        "numbers are right. It does not keep tenants apart."
    ),
    Notice.SALT_REFUSED: (
        "This server refuses cache_salt, like vLLM's V0 engine and gateways that accept only "
        "OpenAI's fields. The exporter therefore sends none and begins each session's first "
        "message with random words. That keeps sessions apart, so the numbers are right. Tenants "
        "share one cache here. To keep them apart, use vLLM's V1 engine, or let the gateway pass "
        "cache_salt on."
    ),
    Notice.CACHED_FROM_COUNTERS: (
        "The server does not report cached tokens. The exporter takes them from the engine's "
        "prefix-cache counters, for each turn during which the engine ran no other request. Other "
        f"turns have no hit ratio. To know all turns: {REPORT_CACHED}"
    ),
    Notice.TOKEN_IDS_RECOVERED: (
        "The answers have no token ids (vLLM sends them since 0.10.2 with return_token_ids, and "
        "never on /v1/messages). The exporter takes those of the prompts from /tokenize, and those "
        "of the answers from logprobs if the server sends them, or on /v1/messages from the text "
        "of each event. Where they do not determine the ideal of a turn, it is not exported."
    ),
    Notice.BLOCK_TOO_LARGE: (
        "The model's context has no room for two cache blocks of this engine and an answer, so no "
        "turn can hit, and the hit ratio says nothing. Raise --max-model-len, or lower "
        "--block-size if the model allows it."
    ),
    Notice.TRANSFER: (
        "The server counts tokens as cached that it received from another engine: the whole "
        "prompt, even a new one. The decode node of a disaggregated deployment does this. No "
        "prefix cache can serve a new prompt, so hits, savings and isolation are unknown here. "
        "Measure the prefill nodes instead."
    ),
    Notice.SYSTEM_ROLE_REFUSED: (
        "The chat template of this model refuses a system message, so the scenario runs without "
        "one: its text stands at the beginning of the first user message."
    ),
    Notice.MIXED: (
        "Several engines answer at this URL in turn, each with its own cache. A turn that reaches "
        "another engine than the turn before hits nothing. Make each replica a target of its own, "
        "and let the load balancer keep a conversation on one replica."
    ),
    Notice.CAPACITY_UNKNOWN: (
        "The size of the KV cache is unknown, so probe.max_cache_turnover_per_hour cannot bound "
        "what the probe writes into it. Only probe.tokens_per_hour bounds the probe. vLLM says the "
        "size in vllm:cache_config_info; where that is missing, let metrics_url name vLLM's own "
        "/metrics, or raise probe.interval_seconds."
    ),
    Notice.RANK_GONE: (
        "The engine refuses a data-parallel rank that its /metrics still shows, as after it was "
        "scaled down. Sessions are pinned to the other ranks."
    ),
}

BREAK_ADVICE: dict[BreakReason, str] = {
    BreakReason.SYSTEM_PROMPT_MOVED: (
        "The chat template moved the system prompt into a later message. Start vLLM "
        "with --chat-template and a template that leaves it at the beginning."
    ),
    BreakReason.REASONING_STRIPPED: (
        "The reasoning of an answer is missing from the next prompt. If the model allows it, start "
        "vLLM with --chat-template and a template that keeps it, or turn reasoning off."
    ),
    BreakReason.TOOLS_REORDERED: (
        "The tools changed their order or place between two requests. Send them in a fixed "
        "order. If the chat template sorts or moves them, start vLLM with --chat-template and "
        "another template."
    ),
    BreakReason.VALUE_CHANGED: (
        "A short value in the earlier text changed between two requests, such as a date, a time or "
        "an id. Remove it from the chat template or the system prompt, or move it to the end."
    ),
    BreakReason.HISTORY_REWRITTEN: (
        "The next prompt renders earlier messages in another way, as with a chat template that "
        "changes them when a later one follows. Start vLLM with --chat-template and a template "
        "that only appends."
    ),
    BreakReason.COMPLETION_REENCODED: (
        "The text of an answer encodes to other token ids than the engine generated. The chat "
        "template is not the cause. Only that answer, and what follows it, is computed once more."
    ),
    BreakReason.ANSWER_LEFT_OUT: (
        "The whole answer was reasoning, which a conversation does not repeat, so the next prompt "
        "has nothing of it. If max_tokens cut the reasoning off, raise probe.max_tokens. The chat "
        "template is not the cause. Only that answer is computed for nothing."
    ),
}

FAILURE_ADVICE: dict[FailureReason, str] = {
    FailureReason.CONNECTION_REFUSED: (
        "Nothing listens at this address. Check that vLLM runs and that the URL has its port. "
        "vLLM does not listen while it loads a model."
    ),
    FailureReason.CONNECT_FAILED: (
        "The address cannot be reached. Check the host name, the network between the two hosts, "
        "and the certificate if the URL is https."
    ),
    FailureReason.CONNECT_TIMEOUT: (
        "The connection was not established in time. Check the host, the network and its firewalls."
    ),
    FailureReason.FIRST_TOKEN_TIMEOUT: (
        "The server accepted the request and sent no token in time. Check whether requests wait "
        "in its queue and whether the engine hangs. A slow machine needs a longer deadline."
    ),
    FailureReason.STALLED: (
        "The answer began and then stopped for too long. Check the engine's log for preemption "
        "or a hanging worker."
    ),
    FailureReason.TURN_TIMEOUT: (
        "The answer did not end in time. Check the engine's load. A slow machine needs a longer "
        "deadline or fewer tokens per answer."
    ),
    FailureReason.STREAM_CUT: (
        "The connection closed in the middle of an answer. Check whether vLLM, or a proxy in front "
        "of it, was stopped or restarted."
    ),
    FailureReason.STREAM_ERROR: (
        "The server reported an error in the middle of an answer. Read its log: the engine process "
        "may have died."
    ),
    FailureReason.ABORTED: (
        "The engine dropped the request, as it does when it shuts down. Check whether it is "
        "restarting."
    ),
    FailureReason.UNAUTHORIZED: (
        "The server requires an API key, or rejected this one. Set the target's api_key_file."
    ),
    FailureReason.MODEL_NOT_FOUND: (
        "The server does not serve this model. Set the target's model to a name that /v1/models "
        "lists, or remove the setting."
    ),
    FailureReason.NO_MODEL: "The server lists no model on /v1/models. Check that it is a vLLM.",
    FailureReason.PROMPT_TOO_LONG: (
        "The prompt does not fit into the model's context. Raise --max-model-len, or choose a "
        "shorter scenario."
    ),
    FailureReason.BAD_REQUEST: (
        "The server refuses the request and says why in its answer. An old version may not know a "
        "field."
    ),
    FailureReason.SERVER_ERROR: "The server had an internal error. Its log says why.",
    FailureReason.OVERLOADED: (
        "The server accepts no more requests at the moment. Check its queue, and any rate limit "
        "in front of it."
    ),
    FailureReason.ASLEEP: (
        "The engine sleeps, so requests wait. POST /wake_up wakes it up. This is not a fault."
    ),
    FailureReason.PAUSED: (
        "The engine is paused (/pause): requests wait, or since vLLM 0.33 are refused, until "
        "POST /resume. This is not a fault."
    ),
    FailureReason.SCALING: (
        "The engine adds or removes data-parallel ranks (/scale_elastic_ep) and refuses every "
        "request until that is done. This is not a fault."
    ),
    FailureReason.API_NOT_SERVED: (
        "The server does not serve the API that probe.api names. Set it to chat_completions, or "
        "upgrade vLLM: it serves the others since the end of 2025. A gateway may hide a path."
    ),
    FailureReason.PROTOCOL: (
        "The answer is not that of an OpenAI-compatible server. Check that the URL is vLLM's own."
    ),
    FailureReason.NO_DESCRIPTORS: (
        "The exporter has no file descriptor left, so it did not ask the engine. Raise its limit "
        "of open files (LimitNOFILE in systemd, --ulimit nofile in Docker), and find out which "
        "clients hold so many connections to it."
    ),
    FailureReason.INTERNAL: (
        "This is a bug in the exporter and says nothing about the server. Please report it with "
        "the exporter's log."
    ),
}

_AT_THE_TERMINAL = {
    # What failed says already that nothing listens.
    FailureReason.CONNECTION_REFUSED: (
        "Check that vLLM runs and that the URL has its port. vLLM does not listen while it loads a "
        "model."
    ),
    FailureReason.MODEL_NOT_FOUND: "Give --model a name that the server lists, or leave it out.",
    FailureReason.UNAUTHORIZED: (
        "The server requires an API key, or rejected this one. Give --api-key-file FILE or set "
        "VLLM_API_KEY; for a configured target set api_key_file."
    ),
}


def advice_at_terminal(reason: FailureReason) -> str:
    """The advice for a command, where an option replaces the setting in `FAILURE_ADVICE`."""
    return _AT_THE_TERMINAL.get(reason, FAILURE_ADVICE[reason])


LOSS_ADVICE: dict[LossCause, str] = {
    LossCause.DISABLED: CACHING_ON,
    LossCause.MIXED: (
        "Let the load balancer keep a conversation on one replica, as a prefix-aware router does, "
        "and make each replica a target of its own."
    ),
    LossCause.RESTART: "The engine restarted during the session. Find the reason in its log.",
    LossCause.UNREPORTED: (
        "The cache works, but the usage of an answer does not report its hits. Look for a proxy "
        "that rewrites answers, and start vLLM with --enable-prompt-tokens-details."
    ),
    LossCause.WEDGED: "Restart vLLM. Nothing else is known to make its prefix cache work again.",
    LossCause.NEVER_HIT: (
        "Nothing shows that the cache has stopped working. If users' prompts hit before and no "
        "longer do, restart vLLM; otherwise a restart is not known to help. Read in vLLM's log "
        "whether prefix caching is on for this model. Some hybrid models with MTP serve a prompt "
        "only after they computed it twice: upgrade vLLM, or try without --speculative-config."
    ),
    LossCause.EVICTED: (
        "The cache is too small for its traffic. Raise --gpu-memory-utilization, choose a smaller "
        "--kv-cache-dtype, offload with --kv-offloading-size, or add a replica."
    ),
    LossCause.OTHER_RANK: (
        "Let a router keep each session on one rank: with --data-parallel-size vLLM's load "
        "balancer sends a request to any rank. To measure each rank by itself, pin the probe's "
        'sessions with data_parallel_ranks = "pinned" (vLLM 0.14 and later).'
    ),
    LossCause.RESET: (
        "Find out what empties the cache: POST /reset_prefix_cache in development mode, or an "
        "update of weights."
    ),
    LossCause.UNEXPLAINED: (
        "Nothing shows that the cache was too small, so more memory is not known to help. The "
        "engine's reuse rule is already taken into account."
    ),
}

_SHOWN = 60
"""Characters shown of each text around a break."""


def break_in_words(found: PrefixBreak) -> str:
    """Where a prompt differs from the turn before it. Has prompt text: for a page or a terminal
    only, never for a log.
    """
    place = f"token {found.token_index:,} of {found.sequence_tokens:,}"
    if found.message is not None:
        place += f", in message {found.message} ({found.role})"
    elif found.role is not None:
        place += f", in the {found.role}"
    sentence = f"Turn {found.turn} differs from the turn before it at {place}."
    if found.before is None or found.earlier is None or found.later is None:
        return sentence
    before = _one_line(found.before)[-_SHOWN:]
    earlier, later = _one_line(found.earlier)[:_SHOWN], _one_line(found.later)[:_SHOWN]
    return f"{sentence} After «{before}» it had «{earlier}», and now has «{later}»."


def _one_line(text: str) -> str:
    return " ".join(text.split())
