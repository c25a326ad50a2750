"""README and docs/ name what is there: links, files, options, command lines; and the README's Python runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import cycle, islice
from pathlib import Path

import pytest
from command import ROOT
from configs import GROUPS, OPTIONS, composed
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmarks.record.moved import key
from benchmarks.runs.options import check_options
from benchmarks.runs.usage import check
from run import given

BESIDE = [ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "board" / "README.md"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *BESIDE]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
NAMES = {group: {o for g, o in OPTIONS if g == group} for group in GROUPS}
ROOMS = ("fade", "benchmarks", "conf", "sweeps", "docs", "tests")
OF_GRIDS = ("dataset.styles", "dataset.objects")  # of the canvas and UnlearnCanvas; elsewhere dataset.domains
WRONG = ROOT / "docs" / "wrong_inputs.md"  # lists command lines that are refused
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def test_the_readme_is_a_front_door() -> None:
    text = TEXTS[PAGES[0]]
    assert len(text.splitlines()) <= 150
    led_to = [page for page in PAGES[1:] if page != BESIDE[1]]  # to that one CONTRIBUTING leads
    missing = [page.name for page in led_to if f"]({page.relative_to(ROOT)})" not in text]
    assert not missing, "pages that the README does not lead to"


def test_the_site_leads_to_every_page_and_every_room() -> None:
    nav = (ROOT / "docs" / "site" / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    rooms = [
        path.parent.relative_to(ROOT) for name in ("fade", "benchmarks") for path in (ROOT / name).rglob("__init__.py")
    ]
    shipped = (ROOT / "fade" / "shipped").glob("*/README.md")
    wanted = {
        *(str(page.relative_to(ROOT)) for page in (*PAGES, *shipped)),
        *(f"api/{'.'.join(room.parts)}.md" for room in rooms),
    }
    assert wanted <= set(re.findall(r": (\S+\.md)$", nav, re.MULTILINE))


def heading_ids(text: str) -> set[str]:
    """As GitHub makes them: lower case, punctuation dropped, spaces to hyphens."""
    titles = [line.lstrip("# ").lower() for line in text.splitlines() if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pages
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        name, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in heading_ids(target.read_text(encoding="utf-8")), link


@pages
def test_every_file_that_is_named_is_there(page: Path) -> None:
    for name in re.findall(rf"(?<![\w/.*-])(?:{'|'.join(ROOMS)})/[\w./-]+", TEXTS[page]):
        if not re.search(r"\b[A-Z]+\b", name.removesuffix("README.md")):  # NAME, MODEL: to be filled in
            assert (ROOT / name.rstrip(".")).exists(), name
    for folder, others in re.findall(r"((?:\w+/)+)\w+\.py((?:, \w+(?:\.py|/))+)", TEXTS[page]):
        for other in others.strip(", ").split(", "):
            assert (ROOT / folder / other).exists(), folder + other


def test_every_room_is_there() -> None:
    rooms = TEXTS[PAGES[0]].partition("## Rooms")[2].partition("\n## ")[0]
    found = re.findall(r"(?<![\w/])(\w+)/", rooms)
    assert {*ROOMS, "methods", "strategies", "data", "pretrain", "mutants"} <= set(found)
    for name in found:
        assert any((ROOT / room / name).is_dir() for room in ("", "fade", "benchmarks", "tests")), name


@pages
def test_every_option_that_is_named_is_there(page: Path) -> None:
    """GROUP=OPTION, anywhere in a page."""
    if page == WRONG:
        return
    for group, values in re.findall(rf"(?<![\w.])({'|'.join(GROUPS)})=([a-z][\w,]*)", TEXTS[page]):
        for value in values.strip(",").split(","):
            assert value in NAMES[group], f"{group}={value}"


@pages
def test_no_page_names_what_is_called_otherwise_today(page: Path) -> None:
    for name in set(re.findall(r"\b(?:dataset|protocol)\.\w+(?==)|`(?:dataset|protocol)\.[a-z]\w*", TEXTS[page])):
        assert key(name.strip("`")) == name.strip("`") or name.strip("`") in OF_GRIDS, name


def rows(page: str, header: str) -> list[list[str]]:
    """The cells of a table, by the beginning of its header."""
    _, _, rest = TEXTS[ROOT / page].partition(f"\n{header}")
    lines = rest.split("\n\n")[0].splitlines()[2:]
    assert lines, header
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_tables_name_every_option_of_their_group() -> None:
    assert {row[0].split()[0] for row in rows("README.md", "| `method=` |")} == NAMES["method"]
    assert {name for row in rows("docs/datasets.md", "| `dataset=` |") for name in row[0].split(", ")} == (
        NAMES["dataset"] - {"canvas", "folder", "grid"}
    )
    for row in rows("docs/command_line.md", "| group | options |"):
        groups = re.findall(r"`(\w+)`", row[0])
        if groups[0] in ("tuned", "optimizer"):  # said in words
            continue
        there = {option for group in groups for option in NAMES[group]}
        named = [name.strip().replace("\\", "") for name in re.split("[,;]", row[1])]
        found = {
            option for name in named for option in there if option == name or (name[0] == "_" and option.endswith(name))
        }
        assert found >= there - {"compose"}, groups  # compose: for one study
        assert all(any(o == name or (name[0] == "_" and o.endswith(name)) for o in there) for name in named), groups
    assert set(GROUPS) - {"hydra"} == {
        g for row in rows("docs/command_line.md", "| group | options |") for g in re.findall(r"`(\w+)`", row[0])
    }


def test_the_results_are_of_methods_and_sequences_that_are_there() -> None:
    for header in ("| method | adapter |", "| against fade |"):
        assert {row[0].split()[0] for row in rows("docs/methods.md", header)} <= NAMES["method"] | {"base", "never"}
    for order, method, *_ in rows("docs/sequences.md", "| order | method, strategy |"):
        assert order in NAMES["sequence"] and method.split(",")[0] in NAMES["method"]


def test_every_sweep_is_named() -> None:
    listed = TEXTS[ROOT / "docs" / "sweeps.md"].split("\n\n")[1]
    assert set(re.findall(r"`(\w+)`", listed)) == {path.stem for path in (ROOT / "sweeps").glob("*.yaml")}


def commands(program: str) -> list[tuple[str, ...]]:
    """The words of every command line in README and docs that begins so; without comments and synopses' brackets."""
    found = {}
    for text in (text for page, text in TEXTS.items() if page != WRONG):
        lines = re.findall(rf"^    (?:[A-Z_]+=\S+ )?({program} .*)$|`({program} [^`]*)`", text, re.MULTILINE)
        for line in (first or second for first, second in lines):
            found[tuple(shlex.split(line.replace(" ...", "").partition(" [--")[0], comments=True))] = None
    return list(found)


def jobs(words: list[str], params: dict[str, object]) -> Iterator[list[str]]:
    """Overrides of runs in which every option of a sweep occurs; of other values (targets, seeds, ...) the first."""
    parsed = OverridesParser.create().parse_overrides([*(f"{key}={value}" for key, value in params.items()), *words])
    choices = {
        o.get_key_element(): list(o.sweep_string_iterator())
        if o.is_sweep_override()
        else [o.get_value_element_as_str()]
        for o in parsed
    }
    length = max((len(values) for key, values in choices.items() if key in GROUPS), default=1)
    turns = {key: list(islice(cycle(values), length)) for key, values in choices.items()}
    for i in range(length):
        yield [f"{key}={turn[i if key in GROUPS else 0]}" for key, turn in turns.items()]


@cache
def swept(*sweeps: str) -> dict[str, object]:
    """The parameters of +sweeps=NAME; none without one."""
    if not sweeps:
        return {}
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return dict(compose("config", [*sweeps], return_hydra_config=True).hydra.sweeper.params or {})


@pytest.mark.parametrize("command", commands("python run.py"), ids=" ".join)
def test_a_command_line_composes(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as no file is needed: Hydra composes it, every value resolves, types and ranges are right."""
    monkeypatch.setattr("benchmarks.runs.options.check_packing", lambda: None)  # of this machine, not of the line
    monkeypatch.chdir(ROOT)  # sweeps/ is found from there
    words = [word for word in command[2:] if word not in ("-m", "--cfg", "job")]
    several = "-m" in command or "task=plan" in command
    check(words)
    sweeps = [word for word in words if word.startswith("+sweeps=")]
    assert several or not sweeps
    try:
        for job in jobs(words, swept(*sweeps)):
            config = composed(*job)
            OmegaConf.to_container(config, resolve=True, throw_on_missing="dataset.root=..." not in words)
            check_options(given(config))
    except (HydraException, OmegaConfBaseException) as error:
        pytest.fail(f"{' '.join(command)}: {error}")


def test_every_other_command_is_there() -> None:
    """Modules and their flags, the subcommands of `fade`, the targets of make."""
    modules = commands("python -m")
    assert len(modules) > 8
    for _, _, module, *words in modules:
        if module == "pytest":
            assert all((ROOT / word).exists() for word in words if word.endswith(".py"))
            continue
        path = ROOT / module.replace(".", "/")
        source = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        text = source.read_text(encoding="utf-8")
        flags = {word for word in words if word.startswith("--")} - {"--help"}  # argparse's own
        assert all(f'"{word}"' in text for word in flags), (module, words)
    cli = (ROOT / "fade" / "cli.py").read_text(encoding="utf-8")
    for _, name, *words in commands("fade"):
        assert f'"{name}"' in cli and all(f'"{word}"' in cli for word in words if word.startswith("--")), name
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    for _, target, *_ in commands("make"):
        assert f"\n{target}:" in made, target


BUDGET = {
    "steps=100": "steps=1",
    '"steps": 100': '"steps": 1, "images": 1',
    "steps=15": "steps=2",
    '"sampling_steps": 15': '"sampling_steps": 2',
    "rank=8,": "rank=8, images=1,",
}


@pytest.mark.parametrize("name", ["README.md", "docs/adapters.md"])
def test_the_python_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, on the shipped pipeline; one step and few images."""
    (block,) = re.findall(r"```python\n(.*?)```", TEXTS[ROOT / name], re.DOTALL)
    for long, short in BUDGET.items():
        block = block.replace(long, short)
    assert "100" not in block and "15" not in block
    monkeypatch.chdir(tmp_path)  # nothing of a checkout is there
    exec(compile(block, name, "exec"), {})
    assert (tmp_path / "neon" / "adapter.safetensors").is_file()
