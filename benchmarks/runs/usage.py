"""What the user can mend, in one line: a command line that cannot be read, with the nearest that can; a disk that is
full.

Texts alone: Hydra is run.py's.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from benchmarks.record import moved
from benchmarks.runs.verdict import Below
from fade.errors import BadInput

CONF = Path(__file__).parents[2] / "conf"
ONE = (
    "target",
    "surrogate",
    "task",
    "seed",
    "answers",
    "base_answers",
    "run",
    "base",
    "oracle",
    "out",
    "output_dir",
    "cache_dir",
)  # never a list


class Misused(BadInput):
    """The command line is wrong, not what it names: exit code 2."""


class Told(Exception):
    """A failure that the user has been told of; args[0] is the exit code."""


DISK = {  # what a failed file operation means here
    errno.ENOSPC: "the disk is full ({name}); free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up ({name}); free some space and run the same command again",
    errno.ENOENT: "{name} is gone; put it back and run the same command again",
    errno.ENOTDIR: "{name} cannot be: one of its folders is a file; give another output_dir, cache_dir or out",
    errno.EEXIST: "{name} is a file, and a folder is needed there; give another output_dir, cache_dir or out",
    errno.EROFS: "{name} lies on a read-only disk; give an output_dir and a cache_dir that can be written",
    errno.EACCES: "{name} may not be read or written by you; give another output_dir, cache_dir or out, or mend that",
    errno.ENAMETOOLONG: "the name {name} is too long; give a shorter output_dir or out",
}
DIED = ("UncompletedJobError", "TerminatedWorkerError")  # submitit's and joblib's, which need not be installed


def complain(error: BaseException, known: Callable[[], Mapping[str, Any]]) -> int:
    """Say in one line what the user can mend; return 2 for usage, 1 for input. A bug is raised again."""
    said = mendable(error, known)
    if said is None:
        raise error
    print(f"error: {said[0]}", file=sys.stderr)
    return said[1]


def mendable(error: BaseException, known: Callable[[], Mapping[str, Any]]) -> tuple[str, int] | None:
    """Line and exit code; None for a bug. Hydra's and launchers' errors are told by name. known: `explain`'s."""
    kind, room, first = (
        type(error).__name__,
        type(error).__module__.partition(".")[0],
        (str(error) or "?").splitlines()[0],
    )
    if kind == "InstantiationException" and error.__cause__ is not None:
        cause, place = error.__cause__, str(error).rpartition("full_key: ")[2]
        wrong = isinstance(cause, (TypeError, ValueError)) and not isinstance(cause, BadInput)
        return (f"{place}: {str(cause).splitlines()[0]}", 1) if wrong else mendable(cause, known)
    if isinstance(error, BadInput):
        return str(error), 2 if isinstance(error, Misused) else 3 if isinstance(error, Below) else 1
    if kind == "MissingMandatoryValue":
        return f"{first}; give it on the command line", 2
    if room in ("hydra", "omegaconf"):
        return explain(str(error), getattr(error, "override", ""), sys.argv[1:], known), 2
    if isinstance(error, OSError) and error.errno in DISK:
        return DISK[error.errno].format(name=error.filename or "output_dir or cache_dir"), 1
    if kind in DIED:
        return f"{first} died; the others go on, and the same command takes up what is missing", 1
    return None


def given(arguments: Iterable[str]) -> list[tuple[str, str]]:
    """Key and value of every override that sets something; flags, additions (+) and deletions (~) are left out."""
    return [
        (key, value) for key, equals, value in (a.partition("=") for a in arguments) if equals and re.match(r"\w", key)
    ]


def check(arguments: Sequence[str]) -> None:
    """Raises Misused for what Hydra would take silently: a key set twice, an empty surrogate, a list for one name."""
    seen: dict[str, str] = {}
    for key, value in given(arguments):
        if seen.setdefault(key, value) != value:
            raise Misused(
                f"{key} is given twice, as {seen[key]} and as {value}; give it once{sweep(key, seen[key], value)}"
            )
        if key == "surrogate" and not value:
            raise Misused("surrogate is empty; name a concept, or leave it away for the dataset's own")
        if key in ONE and value.startswith("["):
            raise Misused(several(key, value[1:].rstrip("]")))


def sweep(key: str, *values: str) -> str:
    """The way to run both, where neither value needs quotes."""
    plain = all(re.fullmatch(r"[\w.-]+", value) for value in values)
    return f", or both as a sweep: python run.py -m {key}={','.join(values)}" if plain else ""


def several(key: str, values: str) -> str:
    return f"several values need -m: python run.py -m {key}={values.replace(' ', '')}"


def closest(word: str, names: Iterable[str]) -> list[str]:
    """Up to three names that look like the word, the nearest first."""
    return get_close_matches(word, list(dict.fromkeys(names)), 3, 0.6)


def explain(said: str, override: str, overrides: Sequence[str], known: Callable[[], Mapping[str, Any]]) -> str:
    """Hydra's text, as what the user can mend. `override`: the one that could not be parsed, where Hydra names it;
    `known`: the composed configuration, asked for where a key is to be found."""
    first = said.splitlines()[0]
    if override:
        return unreadable(override)
    if match := re.match(r"Could not override '([^']*)'|Could not delete from config\. '([^']*)'", first):
        return unknown_key(match[1] or match[2], overrides, known())
    if match := re.search(r"Could not (?:find|load) '(.+)/([^/']*)'", first):
        options = re.findall(r"^\t(\S+)$", said.partition("Config search path")[0], re.MULTILINE)
        return unknown_option(match[1], match[2], options)
    if match := re.match(r"Ambiguous value for argument '([^=]*)=(.*)'", first):
        alone = "" if match[1] in ONE else f" (one value that is a list is written {match[1]}=[{match[2]}])"
        return several(match[1], match[2]) + alone
    return first


def unreadable(override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        return f"cannot read {override!r}; an option is written KEY=VALUE, for example target=neon"
    if re.search(r"\s[\w.+~/@]+=", value) and "'" not in value and '"' not in value:
        return (
            f"cannot read {override!r}; those are several options in one argument: "
            "write them without the quotes around all"
        )
    if value.lstrip().startswith("["):
        entries = [entry.strip(" '\"") for entry in value.strip().strip("[]").split(",")]
        quoted = "[" + ",".join(f"'{entry}'" for entry in entries) + "]"
    else:
        quoted = "'" + value.strip(" '\"") + "'"
    return f'cannot read {override!r}; quote the value for Hydra, and all of it for the shell: "{key}={quoted}"'


def unknown_option(group: str, option: str, options: Sequence[str]) -> str:
    if today := moved.OPTIONS.get(f"{group}={option}"):
        return f"{group} has no option {option!r} any more; it is {today}"
    if group.startswith("adapter/"):
        return f"adapter is a kind of adapter, not a folder; to attack one: task=attack run={group[8:]}/{option}"
    near = closest(option, options)
    return (
        f"{group} has no option {option!r}"
        + (f"; it has {', '.join(options)}" if options else "")
        + (f"; closest: {', '.join(near)}" if near else "")
    )


def unknown_key(key: str, overrides: Sequence[str], known: Mapping[str, Any]) -> str:
    """The nearest keys and groups; where none is near, what stands beside it, or which option of its group has it."""
    if (today := moved.key(key)) != key:
        return f"no key {key} any more; it is {today}"
    names = keys(known)
    groups = [path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"] + ["+sweeps"]
    parent, _, last = key.rpartition(".")
    group = key.partition(".")[0]
    what = f"no key {key}" if parent else f"no group or key {key!r}"
    line = re.compile(rf"^ *{re.escape(last)}:", re.MULTILINE)
    holders = [
        path.stem for path in sorted((CONF / group).glob("*.yaml")) if line.search(path.read_text(encoding="utf-8"))
    ]
    if parent == group and holders:
        chosen = dict(given(overrides)).get(group, "")
        return f"{what}{f' with {group}={chosen}' if chosen else ''}; it belongs to {group}={', '.join(holders)}"
    beside = [name.rpartition(".")[2] for name in names if parent and name.rpartition(".")[0] == parent]
    near = [f"{parent}.{name}" for name in closest(last, beside)]
    near = near or [name for name in names if name.rpartition(".")[2] == last]
    near = near or closest(key, [] if beside else [*names, *groups])
    if near or beside:
        return f"{what}; closest: {', '.join(near)}" if near else f"{what}; {parent} has {', '.join(beside)}"
    return f"{what}; the groups are {', '.join(sorted(groups))}" if not parent else what


def keys(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every dotted key of a nested configuration, inner nodes too; what is for instantiation alone is left out."""
    found = []
    for name, value in tree.items():
        if not str(name).startswith("_"):
            found += [f"{prefix}{name}", *(keys(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [])]
    return found
