"""A vLLM on the wire, without a model: it answers as a release of vLLM does, and says SIMULATED.

It shares nothing with the rest of the program but the logger, the errors and the clock, so that
it can judge the rest.
"""
