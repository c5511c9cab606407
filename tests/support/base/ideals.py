"""The ideal of one prompt after earlier token sequences, as the exporter computes it."""

from exporter.analysis.reuse.cache_math import ideal_tokens, reusable
from exporter.model.chat import Chat


def _turn(prompt):
    return Chat(0.0, (), 1.0, None, "length", tuple(prompt), completion_token_ids=())


def ideal_of(prompt, earlier, match_unit):
    """The most tokens of `prompt` that exact-prefix caching can serve."""
    shared = reusable(_turn(prompt), [_turn(sequence) for sequence in earlier])
    return ideal_tokens(shared, match_unit)
