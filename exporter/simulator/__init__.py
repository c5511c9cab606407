"""A vLLM on the wire, without a model: it answers like vLLM 0.32.0 and says that it is simulated.

It shares nothing with the rest of the program but the logger, the errors and the clock, so that
it can judge the rest.
"""
