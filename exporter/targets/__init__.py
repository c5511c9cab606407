"""The targets that run: their loops, their containers, and how the list of them changes."""
