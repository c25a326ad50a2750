"""A command line that cannot be read, in one line: what is wrong, and the nearest that can. Texts alone: Hydra is run.py's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fade.errors import BadInput

CONF = Path(__file__).parents[1] / "conf"
ONE = ("target", "surrogate", "task", "seed", "answers", "base_answers", "out", "output_dir", "cache_dir")  # never a list


class Misused(BadInput):
    """The command line is wrong, not what it names: exit code 2."""


def given(arguments: Iterable[str]) -> list[tuple[str, str]]:
    """Key and value of every override that sets something; flags, additions (+) and deletions (~) are left out."""
    return [(key, value) for key, equals, value in (a.partition("=") for a in arguments) if equals and re.match(r"\w", key)]


def check(arguments: Sequence[str]) -> None:
    """Raises Misused for what Hydra would take without a word: a key set twice, an empty surrogate, a list for one name."""
    seen: dict[str, str] = {}
    for key, value in given(arguments):
        if seen.setdefault(key, value) != value:
            raise Misused(f"{key} is given twice, as {seen[key]} and as {value}; give it once{sweep(key, seen[key], value)}")
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
        return f"cannot read {override!r}; those are several options in one argument: write them without the quotes around all"
    if value.lstrip().startswith("["):
        entries = [entry.strip(" '\"") for entry in value.strip().strip("[]").split(",")]
        quoted = "[" + ",".join(f"'{entry}'" for entry in entries) + "]"
    else:
        quoted = "'" + value.strip(" '\"") + "'"
    return f'cannot read {override!r}; quote the value for Hydra, and all of it for the shell: "{key}={quoted}"'


def unknown_option(group: str, option: str, options: Sequence[str]) -> str:
    near = closest(option, options)
    return (f"{group} has no option {option!r}" + (f"; it has {', '.join(options)}" if options else "")
            + (f"; closest: {', '.join(near)}" if near else ""))  # fmt: skip


def unknown_key(key: str, overrides: Sequence[str], known: Mapping[str, Any]) -> str:
    """The nearest keys and groups; where nothing is near, what stands beside it, or which option of its group has it."""
    names = keys(known)
    groups = [path.name for path in CONF.iterdir() if path.is_dir()] + ["+sweeps"]
    parent, _, last = key.rpartition(".")
    group = key.partition(".")[0]
    what = f"no key {key}" if parent else f"no group or key {key!r}"
    line = re.compile(rf"^ *{re.escape(last)}:", re.MULTILINE)
    holders = [path.stem for path in sorted((CONF / group).glob("*.yaml")) if line.search(path.read_text(encoding="utf-8"))]
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
