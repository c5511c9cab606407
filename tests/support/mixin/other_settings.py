"""Settings of rules and dashboards that differ from the shipped ones in every value."""

from __future__ import annotations

from typing import Final

from mixin.settings import read

THRESHOLDS: Final = """\
[hit_ratio]
low = 0.37
good = 0.63
good_within = "3d"
min_users_tokens_per_second = 111
heartbeat_share = 0.71
[efficiency]
low = 0.77
good = 0.88
window = "21m"
[retention]
low = 0.41
longest_gap_seconds = 420
[ttft]
objective_ratio = 0.92
bound_seconds = 2.5
[ttft.fast]
burn_rate = 8.5
long_window = "2h"
short_window = "7m"
min_turns = 17
[ttft.slow]
burn_rate = 3.5
long_window = "3h"
short_window = "41m"
min_turns = 73
[users_ttft]
objective_ratio = 0.91
bound_seconds = 7.5
min_requests = 87
[ttft_regression]
factor = 1.9
margin_seconds = 0.13
[stale]
heartbeat_seconds = 660
heartbeat_intervals = 7
session_seconds = 2820
[serving]
session_seconds = 181
heartbeat_seconds = 191
[kv_cache]
full = 0.83
[crash_loop]
restarts = 6
window = "51m"
[labels]
keep = ["owner", "zone"]
[links]
runbooks = "https://wiki.example.org/vllm"
exporter = "https://exporter.example.org"
"""

OTHERS: Final = f"{THRESHOLDS}[alerts]\n" + "".join(
    f'{name} = {{severity = "info", for = "{number}s"}}\n'
    for number, name in enumerate(read().alerts, start=61)
)
