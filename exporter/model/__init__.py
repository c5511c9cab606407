"""The records that flow through the program: frozen, in seconds, tokens and ratios from 0 to 1.

An unknown value is None, never 0. Times named `*_at` are of a monotonic clock, times named `*_time`
are Unix times.
"""
