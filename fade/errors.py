"""The one exception for bad input: its text is the single line the user reads."""


class BadInput(ValueError):
    """Something the user gave is wrong. The message says what, where, and what to do."""


def at_least(low: float, **options: float) -> None:
    """Raises BadInput for the first option that is below `low`, or no number."""
    for name, value in options.items():
        if not value >= low:
            raise BadInput(f"{name.replace('__', '.')} is {value}; it must be {low:g} or more")


def above(low: float, **options: float) -> None:
    """Raises BadInput for the first option that is not above `low`, or no number."""
    for name, value in options.items():
        if not value > low:
            raise BadInput(f"{name.replace('__', '.')} is {value}; it must be above {low:g}")
