"""JSON that looks like recorded requests now and then, for property tests."""

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["role", "content", "messages", "input", "type", "tools", "function", "arguments",
             "request", "response", "choices", "message", "usage", "output", "text", "log",
             "entries", "model", "system", "time"]
        ), inner, max_size=5),
    max_leaves=30,
)  # fmt: skip
