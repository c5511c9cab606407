"""The records that flow through the program: frozen, in seconds, tokens and ratios from 0 to 1.

A value that is not known is None and is never replaced by a zero. Times named `*_at` are readings
of a monotonic clock, times named `*_time` are Unix times.
"""
