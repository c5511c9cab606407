"""A simulated vLLM server without a model. It answers like a release of vLLM and says SIMULATED.

It shares only the logger, the errors and the clock with the rest of the program, because the tests
judge the rest by it.
"""
