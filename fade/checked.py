"""Types and ranges of what is given, by the signatures themselves: `Count`, `Positive`, ... are written there, once."""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from fade.errors import BadInput

Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=8)]  # of an image that is made or learnt from, in pixels: a latent is an eighth of it
Whole = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # what numpy, and so Lightning's seed_everything, accepts
Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1e30)]  # beyond it a step of torch's optimizers leaves float32
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Portion = Annotated[float, Field(ge=0, le=1)]
Word = Annotated[str, Field(pattern=r"\S")]
Counts = Annotated[Sequence[Count], Field(min_length=1)]
Numbers = Annotated[Sequence[float], Field(min_length=1)]
Words = Annotated[Sequence[Word], Field(min_length=1)]
PLAIN = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path", Any: "anything"}
LIMITS = {
    "ge": "{} or more",
    "gt": "above {}",
    "le": "at most {:g}",
    "lt": "below {}",
    "pattern": "not empty",
    "min_length": "one or more",
}
F = TypeVar("F", bound=Callable[..., Any])


def check(name: str, value: Any, hint: Any, none: str = "null") -> None:
    """Raises BadInput for a value that the type hint does not take; `none` is how nothing is written there.

    Strict: true is no number, "3" is none, nan and infinity are none; whole numbers are numbers, and lists are tuples.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if (where := _wrong(value, hint)) is None or (isinstance(value, list) and _wrong(tuple(value), hint) is None):
        return
    if isinstance(value, Mapping) and where and where[0] in value and len(where) == 1:  # the entry is what is wrong
        name, value = f"{name}.{where[0]}", value[where[0]]
        mapping = (part for part in (hint, *get_args(hint)) if issubclass(get_origin(part) or int, Mapping))
        hint = get_args(next(mapping))[1]
    quotes = ", a number in quotes" if isinstance(value, (bool, int, float)) and str in (hint, *get_args(hint)) else ""
    raise BadInput(f"{name} is {none if value is None else _shown(value)}; it must be {says(hint, none)}{quotes}")


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return repr(value)
    return str(value) if isinstance(value, (bool, int, float, Sequence)) else f"a {type(value).__name__}"


def _wrong(value: Any, hint: Any) -> tuple[Any, ...] | None:
    """Where in the value the first error is; None where there is none."""
    try:
        _adapter(hint).validate_python(value)
    except ValidationError as error:
        return error.errors()[0]["loc"]
    return None


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True))


def _limits(fields: Sequence[Any]) -> str:
    found = {key: getattr(m, key) for f in fields for m in f.metadata for key in LIMITS if hasattr(m, key)}
    words = [text.format(found[key]) for key, text in LIMITS.items() if key in found]
    return f"from {found['ge']} to {found['le']}" if {"ge", "le"} <= set(found) else " and ".join(words)


def says(hint: Any, none: str = "null") -> str:
    """A type hint in words."""
    parts = get_args(hint)
    origin = get_origin(hint)
    if origin is Annotated:
        return f"{says(parts[0], none)}, {_limits(parts[1:])}"
    if origin in (Union, types.UnionType):
        known = [part for part in parts if part is types.NoneType or get_origin(part) or part in PLAIN]
        return " or ".join(dict.fromkeys(says(part, none) for part in known or parts))
    if origin is Literal:
        return ("" if len(parts) == 1 else "one of ") + ", ".join(map(str, parts))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"names, each with {says(parts[1], none)}"
    if isinstance(origin, type) and issubclass(origin, Collection):
        one = says(parts[0], none)
        return f"a list of {one.replace('a whole number', 'whole numbers').replace('a number', 'numbers')}"
    return none if hint is types.NoneType else PLAIN.get(hint) or f"a {getattr(hint, '__name__', hint)}"


def hints(target: Callable[..., Any]) -> dict[str, Any]:
    """The type hints of what a callable is called with; of a class, of its constructor, and of its base's where it
    hands that what it does not name."""
    if not isinstance(target, type) or is_dataclass(target):  # a dataclass' own, each of the class that declares it
        return get_type_hints(target, include_extras=True)
    found = get_type_hints(target.__init__, include_extras=True)  # type: ignore[misc]
    handed = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(target.__init__).parameters.values())  # type: ignore[misc]
    return {**hints(target.__mro__[1]), **found} if handed and target.__mro__[1] is not object else found


def checked(function: F) -> F:
    """The function, which refuses arguments that its type hints do not take."""
    signature = inspect.signature(function)

    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        known = hints(function)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in known:
                check(name, value, known[name], "None")
        return function(*args, **kwargs)

    return guarded  # type: ignore[return-value]


def located(path: str) -> Any:
    """What a dotted name says, imported and not called. Raises BadInput where there is no such thing."""
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
            for part in parts[cut:]:
                found = getattr(found, part)
            return found
        except (ModuleNotFoundError, AttributeError):
            continue
    raise BadInput(f"_target_ is {path!r}, which cannot be imported")
