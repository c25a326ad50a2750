"""The one exception for bad input: its text is the single line the user reads."""


class BadInput(ValueError):
    """Something the user gave is wrong. The message says what, where, and what to do."""
