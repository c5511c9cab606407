"""Notices and failures in words: what each means for the numbers, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.model.failure import FailureReason
from exporter.model.session import BreakReason, LossCause, Notice

if TYPE_CHECKING:
    from exporter.model.session import PrefixBreak

ADVICE: dict[Notice, str] = {
    Notice.SIMULATED: (
        "The engine is SIMULATED: these numbers describe a simulator, not a model server."
    ),
    Notice.USAGE_DETAILS_MISSING: (
        "The server does not report cached tokens where it should, so hit ratios are not known. "
        "Start vLLM with --enable-prompt-tokens-details. If it is set, vLLM is older than 0.9, or "
        "something between this exporter and vLLM drops usage.prompt_tokens_details."
    ),
    Notice.CACHED_TOKENS_UNKNOWN: (
        "An answer did not report its cached tokens, and neither other answers nor the engine's "
        "counters tell whether there were any. vLLM before 0.24 leaves the number out where it is "
        "0, so either no prompt has hit the cache yet, or vLLM runs without "
        "--enable-prompt-tokens-details."
    ),
    Notice.USAGE_MISSING: (
        "The server sends no usage at the end of a stream, so tokens are unknown. "
        "Something between this exporter and vLLM drops stream_options.include_usage."
    ),
    Notice.USAGE_UNUSABLE: (
        "The usage of at least one answer cannot be believed: a number is missing, is none, or is "
        "more than the prompt has. The tokens of such a turn are unknown, its times are not. Look "
        "for something between this exporter and vLLM that rewrites answers."
    ),
    Notice.PREFIX_CACHING_DISABLED: (
        "Prefix caching is switched off on this server, so every token is computed anew. "
        "Start vLLM without --no-enable-prefix-caching."
    ),
    Notice.TOKEN_IDS_MISSING: (
        "Token ids are missing, so an ideal and an efficiency that depend on them are unknown. "
        "Either the server does not return them (vLLM does for return_token_ids since 0.10.2) and "
        "/tokenize does not tell those of the prompts, or fewer came than the answer has tokens, "
        "as where a parser swallows some."
    ),
    Notice.MATCH_UNIT_UNKNOWN: (
        "The size of a cache block is unknown, so the ideal and the efficiency are too. "
        "vLLM's /metrics says it in vllm:cache_config_info: check that /metrics can be reached "
        "and that the server runs without --disable-log-stats."
    ),
    Notice.MATCH_UNIT_DIFFERS: (
        "What hits is a multiple of another number of tokens than vllm:cache_config_info says, as "
        "on hybrid models. The unit is taken from the hits; until they tell it, the ideal and the "
        "efficiency are unknown."
    ),
    Notice.FIRST_TURN_NOT_COLD: (
        "The first turn of a session hit the cache although its first message began with words of "
        "its own: this server ignores cache_salt, and its chat template puts a text before them "
        "that other requests share. The ideal of that turn is not exported."
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
    Notice.OPENING_SHORT: (
        "The first prompt of this scenario file spans fewer than two cache blocks, so its early "
        "turns can hit little or nothing on this engine. Record a longer opening, or play a "
        "built-in scenario, which is made long enough."
    ),
    Notice.PREFIX_UNSTABLE: (
        "The chat template rewrites what was said before, so a prompt does not begin with the turn "
        "before it and the cache cannot serve what follows the change. Start vLLM with "
        "--chat-template and a template that only appends; `check` shows where this one breaks."
    ),
    Notice.CACHE_WEDGED: (
        "The prefix cache has stopped hitting although it has room: an identical prompt, sent "
        "again at once, was computed again, and this engine process had hit before. Restart vLLM; "
        "only that is known to help."
    ),
    Notice.SALT_IGNORED: (
        "This server ignores cache_salt: a session under a salt never used before hit the cache. "
        "So each session's first message begins with words of its own, which keeps it apart as a "
        "salt would, and the numbers are its own. Tenants are not kept apart: vLLM knows "
        "cache_salt since 0.9, and some external KV stores ignore it."
    ),
    Notice.SALT_REFUSED: (
        "This server refuses cache_salt, as vLLM's V0 engine does and gateways that know OpenAI's "
        "fields alone. It is sent none, and each session's first message begins with words of its "
        "own, which keeps it apart as a salt would. No request can have a salt here, so tenants "
        "share one cache: where they must not, use vLLM's V1 engine, or let the gateway pass "
        "cache_salt on."
    ),
    Notice.CACHED_FROM_COUNTERS: (
        "The server does not report cached tokens. They are taken from the growth of its "
        "prefix-cache counters, for each turn during which the engine ran nothing else; the other "
        "turns have no hit ratio. Start vLLM with --enable-prompt-tokens-details to have it always."
    ),
    Notice.TOKEN_IDS_RECOVERED: (
        "The server does not return token ids for return_token_ids, as vLLM does since 0.10.2. "
        "Those of the prompts are from /tokenize, those of the answers from logprobs where it "
        "gives them; where they leave the ideal of a turn open, it is not exported."
    ),
    Notice.BLOCK_TOO_LARGE: (
        "The model's context does not hold two cache blocks of this engine and an answer, so no "
        "turn can hit and the hit ratio says nothing. Raise --max-model-len, or lower "
        "--block-size where the model allows it."
    ),
    Notice.TRANSFER: (
        "The server counts as cached what came from another engine: all of every prompt, also of "
        "one that nobody sent before, as the decode node of a disaggregated deployment does. No "
        "prefix cache can serve that, so hits, savings and isolation are unknown here: measure the "
        "prefill nodes."
    ),
    Notice.SYSTEM_ROLE_REFUSED: (
        "The chat template of this model refuses a system message, so the scenario is played "
        "without one: what it says stands at the head of the first user message."
    ),
    Notice.MIXED: (
        "More than one engine answers at this URL in turn, each with a cache of its own: a turn "
        "that meets another one than the turn before hits nothing. Give each replica a target of "
        "its own, and let the load balancer keep a conversation on one replica."
    ),
}

BREAK_ADVICE: dict[BreakReason, str] = {
    BreakReason.SYSTEM_PROMPT_MOVED: (
        "The chat template moves the system prompt into a later message at every turn. Start vLLM "
        "with --chat-template and a template that leaves it at the beginning."
    ),
    BreakReason.REASONING_STRIPPED: (
        "The reasoning of an answer is not in the history that follows. Where the model allows it, "
        "start vLLM with --chat-template and a template that keeps it, or turn reasoning off."
    ),
    BreakReason.TOOLS_REORDERED: (
        "The tools stand in another order or place at each request. Give them in one order; if "
        "the chat template sorts or moves them, start vLLM with --chat-template and another one."
    ),
    BreakReason.VALUE_CHANGED: (
        "Something near the beginning is another one at each request, such as a date, a time or "
        "an id. Remove it from the chat template or the system prompt, or move it to the end."
    ),
    BreakReason.HISTORY_REWRITTEN: (
        "The chat template renders earlier messages in another way once a later one follows. Start "
        "vLLM with --chat-template and a template that only appends."
    ),
    BreakReason.COMPLETION_REENCODED: (
        "The text of an answer encodes to other token ids than those that were generated. The "
        "template is not at fault; only that answer, and what follows it, is computed again once."
    ),
    BreakReason.ANSWER_LEFT_OUT: (
        "The whole answer was reasoning, which a conversation does not repeat, so nothing of it is "
        "in the next prompt. Where max_tokens cut the reasoning off, raise probe.max_tokens. The "
        "template is not at fault; only that answer is computed for nothing."
    ),
}

FAILURE_ADVICE: dict[FailureReason, str] = {
    FailureReason.CONNECTION_REFUSED: (
        "Nothing listens at this address. Check that vLLM runs and that the URL has its port; "
        "while a model loads, vLLM does not listen yet."
    ),
    FailureReason.CONNECT_FAILED: (
        "The address cannot be reached. Check the host name, the network between the two, "
        "and the certificate if the URL is https."
    ),
    FailureReason.CONNECT_TIMEOUT: (
        "No connection came about in time. Check the host, the network and its firewalls."
    ),
    FailureReason.FIRST_TOKEN_TIMEOUT: (
        "The server took the request and wrote nothing in time. Check whether requests wait in "
        "its queue and whether the engine hangs; a slow machine needs a longer deadline."
    ),
    FailureReason.STALLED: (
        "The answer began and then stopped for too long. Check the engine's log for preemption "
        "or a hanging worker."
    ),
    FailureReason.TURN_TIMEOUT: (
        "The answer did not end in time. Check the engine's load; a slow machine needs a longer "
        "deadline or fewer tokens per answer."
    ),
    FailureReason.STREAM_CUT: (
        "The connection ended within an answer. Check whether vLLM, or a proxy before it, was "
        "stopped or restarted."
    ),
    FailureReason.STREAM_ERROR: (
        "The server reported an error within an answer. Its log says more: the engine process "
        "may have died."
    ),
    FailureReason.ABORTED: (
        "The engine dropped the request. It does so when it shuts down: check whether it is "
        "being restarted."
    ),
    FailureReason.UNAUTHORIZED: (
        "The server wants an API key, or another one. Set the target's api_key_file."
    ),
    FailureReason.MODEL_NOT_FOUND: (
        "The server does not serve this model. Set the target's model to a name that /v1/models "
        "lists, or leave it out."
    ),
    FailureReason.NO_MODEL: "The server lists no model on /v1/models. Check that it is a vLLM.",
    FailureReason.PROMPT_TOO_LONG: (
        "The prompt does not fit into the model's context. Raise --max-model-len or choose a "
        "shorter scenario."
    ),
    FailureReason.BAD_REQUEST: (
        "The server refuses the request. Its answer says why; an old version may not know a field."
    ),
    FailureReason.SERVER_ERROR: "The server failed inside. Its log says why.",
    FailureReason.OVERLOADED: (
        "The server takes no more requests at the moment. Check its queue, and any rate limit "
        "before it."
    ),
    FailureReason.ASLEEP: (
        "The engine sleeps or is paused. Wake it with POST /wake_up, or let it go on with "
        "POST /resume."
    ),
    FailureReason.PAUSED: (
        "Somebody has paused the engine (/pause), or it is being scaled: it refuses requests until "
        "it goes on. It is not ill."
    ),
    FailureReason.PROTOCOL: (
        "The answer is not that of an OpenAI-compatible server. Check that the URL is vLLM's own."
    ),
    FailureReason.NO_DESCRIPTORS: (
        "The exporter itself has no file descriptor left, so the engine was not asked. Raise its "
        "limit of open files (LimitNOFILE in systemd, --ulimit nofile in Docker), and find out who "
        "holds so many connections to it."
    ),
    FailureReason.INTERNAL: (
        "This is a mistake of the exporter's own and says nothing about the server. Please report "
        "it, with the exporter's log."
    ),
}

LOSS_ADVICE: dict[LossCause, str] = {
    LossCause.DISABLED: "Start vLLM without --no-enable-prefix-caching.",
    LossCause.MIXED: (
        "Let the load balancer keep a conversation on one replica, as a router that knows prefix "
        "caches does, and give each replica a target of its own."
    ),
    LossCause.RESTART: "The engine was restarted during the session: find out in its log why.",
    LossCause.UNREPORTED: (
        "The cache works, its usage does not say so: look for a proxy that rewrites answers, and "
        "start vLLM with --enable-prompt-tokens-details."
    ),
    LossCause.WEDGED: "Restart vLLM; nothing else is known to bring its prefix cache back.",
    LossCause.NEVER_HIT: (
        "Nothing that the probe saw has stopped. If users' prompts hit before and no longer do, "
        "restart vLLM; else a restart is not known to help. Read in vLLM's log whether prefix "
        "caching is on for this model; some hybrid models with MTP serve a prompt only once it was "
        "computed twice: upgrade vLLM, or try without --speculative-config."
    ),
    LossCause.EVICTED: (
        "The cache is too small for its traffic: raise --gpu-memory-utilization, choose a smaller "
        "--kv-cache-dtype, offload with --kv-offloading-size, or add a replica."
    ),
    LossCause.OTHER_RANK: (
        "Let a router keep each session on one rank: a load balancer over --data-parallel-size "
        "ranks sends it to any."
    ),
    LossCause.RESET: (
        "Find out who empties the cache: POST /reset_prefix_cache in development mode, or an "
        "update of weights."
    ),
    LossCause.UNEXPLAINED: (
        "Nothing shows that the cache was too small, so more memory is not known to help. With "
        "speculative decoding, sliding windows or linear layers vLLM reuses less by design "
        "(docs/loss-causes.md)."
    ),
}

_SHOWN = 60
"""Characters of each text around a break that a sentence has room for."""


def break_in_words(found: PrefixBreak) -> str:
    """Where a prompt parts from the turn before it, with the text: for a page or a terminal only,
    never for a log.
    """
    place = f"token {found.token_index} of {found.sequence_tokens}"
    if found.message is not None:
        place += f", in message {found.message} ({found.role})"
    elif found.role is not None:
        place += f", in the {found.role}"
    sentence = f"Turn {found.turn} parts from the turn before it at {place}."
    if found.before is None or found.earlier is None or found.later is None:
        return sentence
    before = _one_line(found.before)[-_SHOWN:]
    earlier, later = _one_line(found.earlier)[:_SHOWN], _one_line(found.later)[:_SHOWN]
    return f"{sentence} After «{before}» stood «{earlier}», and now stands «{later}»."


def _one_line(text: str) -> str:
    return " ".join(text.split())
