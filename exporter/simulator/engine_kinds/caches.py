"""Kinds of engine by what their caches serve, each held to a real one where that was recorded.

tests/simulator/test_recorded_kinds.py plays the recordings.
"""

from __future__ import annotations

from exporter.simulator.engine_kinds.profile import Profile
from exporter.simulator.faults import behaviours as be

_NO_RULE = "Every turn has efficiency 100 %."
_AS_EAGLE = "As `eagle`, with the parts of its rule."

PLAIN_CACHES = (
    Profile("plain", "Full attention: every full block hits.", _NO_RULE),
    Profile(
        "mla",
        "Multi-head latent attention (DeepSeek): blocks of 128.",
        _NO_RULE,
        settings={"block_size": 128},
    ),
    Profile(
        "gemma3-dense",
        "Sliding and full layers with --disable-hybrid-kv-cache-manager.",
        _NO_RULE,
    ),
    Profile(
        "draft",
        "A draft model: counters of speculative decoding, every full block hits.",
        _NO_RULE,
        (be.Drafts(3),),
    ),
    Profile(
        "api2",
        "Two API servers: /metrics lacks `process_start_time_seconds`.",
        "The same; a restart shows in the counters.",
        (be.NoStartTime(),),
    ),
    Profile(
        "bos",
        "A chat template that begins with a token of its own.",
        _NO_RULE,
        (be.TokenAtStart(),),
    ),
    Profile(
        "reasoning",
        "A reasoning parser, and answers that never leave the reasoning.",
        _NO_RULE,
        (be.AllReasoning(),),
    ),
)
OTHER_CACHES = (
    Profile(
        "eagle",
        "EAGLE or MTP up to 0.32: every hit lacks the last matched unit.",
        "The rule, with `speculative_decoding` beside each hit. Efficiency 100 %, no loss.",
        (be.DropLastUnit(), be.Drafts(3)),
    ),
    Profile(
        "eagle-2048",
        "The same with blocks of 2048, as large as those of some hybrid models.",
        "The same once hits are seen: a short session hits nothing.",
        (be.DropLastUnit(), be.Drafts(3)),
        {"block_size": 2048, "num_blocks": 64, "max_model_len": 32768},
    ),
    Profile(
        "eagle-hybrid",
        "MTP on a hybrid model: each hit lacks a unit of 528 tokens, and no label shows it.",
        "It learns the unit from the hits (`match_unit_differs`); then as `eagle`.",
        (be.DropLastUnit(), be.Drafts(1), be.HitUnit(528)),
    ),
    Profile(
        "mtp-0.33",
        "MTP with several modules since 0.33: a block hits only if 3 tokens after it are the same.",
        _AS_EAGLE,
        (be.LookAhead(3), be.Drafts(3)),
        {"version": "0.33.0"},
    ),
    Profile(
        "ngram",
        "N-gram drafts with the synchronous scheduler: the last tokens of some answers are not "
        "kept.",
        _AS_EAGLE,
        (be.ForgetLastStep(5), be.Drafts(5)),
    ),
    Profile(
        "sliding-window",
        "Every layer slides (Mistral 7B v0.1), since 0.28: the blocks of answers are never kept.",
        "The rule, with `answer_not_kept` beside each hit. Efficiency 100 %, no loss.",
        (be.ForgetAnswers(256, groups=1, full_groups=0),),
    ),
    Profile(
        "sliding-eagle",
        "Sliding and full layers with EAGLE (gpt-oss): each hit lacks a unit, and answers are not "
        "kept.",
        "As `sliding-window` and `eagle`.",
        (be.ForgetAnswers(128, groups=1), be.DropLastUnit(), be.Drafts(3)),
    ),
    Profile(
        "gemma3",
        "Sliding and full layers: the blocks of answers are never kept.",
        "As `sliding-window`.",
        (be.ForgetAnswers(256, groups=5),),
    ),
    Profile(
        "gemma4",
        "Groups with blocks of 32 and of 64: hits are multiples of 64 where every label says 32.",
        "As `sliding-window`, and `unit` for the larger unit.",
        (be.ForgetAnswers(256, groups=3), be.HitUnit(64)),
        {"block_size": 32},
    ),
    Profile(
        "qwen3-next",
        "Linear and full layers, unit 256: the blocks of answers are never kept.",
        "As `sliding-window`, where a unit ends within an answer.",
        (be.ForgetAnswers(None, groups=3),),
        {"block_size": 256},
    ),
    Profile(
        "qwen3-next-32",
        "The same with --prefix-match-unit 32.",
        "As `sliding-window`.",
        (be.ForgetAnswers(None, groups=3), be.BlockLabel(256, 32)),
        {"block_size": 32},
    ),
    Profile(
        "hybrid-528",
        "A hybrid model: the label shows blocks of 16, each hit is a multiple of 528.",
        "It learns the unit from the hits (`match_unit_differs`); until then the ideal is unknown. "
        "Never `evicted`.",
        (be.HitUnit(528),),
    ),
    Profile(
        "label-4",
        "The label shows blocks of 4, each hit is a multiple of 256.",
        "The same.",
        (be.BlockLabel(4), be.HitUnit(256)),
    ),
    Profile(
        "late-hits",
        "A hybrid model with MTP: an identical prompt hits only the third time.",
        "Neither `wedged` nor `reset`: hits always came late. `wedge` is unknown.",
        (be.LateHits(3), be.Drafts(1), be.ForgetAnswers(None, groups=3)),
    ),
    Profile(
        "external",
        "A KV store that ignores salts and finds whole prompts (ExampleConnector).",
        "It finds that salts are ignored; words at the start of each prompt keep sessions apart. "
        "`external_cached_tokens` is the store's part; it saves no money.",
        (be.ExternalStore(None),),
    ),
    Profile(
        "external-chunks",
        "A KV store that ignores salts and finds chunks of 256 tokens (LMCache).",
        "The same.",
        (be.ExternalStore(256),),
    ),
    Profile(
        "dp2",
        "Two data-parallel ranks behind one port: the turns of a session change ranks. /metrics "
        "lacks `process_start_time_seconds`.",
        "Two ranks, each with a cache of its own: losses are `other_rank`.",
        (be.Spread("in_turn"), be.NoStartTime()),
        {"engine_ranks": 2},
    ),
    Profile(
        "pd-decode",
        "A decode node of prefill/decode disaggregation: all prompt tokens except one count as "
        "cached, also with a new salt.",
        "A transfer, not a hit: hit ratio, isolation and savings are unknown, and so are external "
        "hits. Notice `transfer`.",
        (be.Transfer(1),),
    ),
    Profile(
        "pd-decode-all",
        "The same with all prompt tokens.",
        "The same.",
        (be.Transfer(0),),
    ),
)
