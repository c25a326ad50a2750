"""The task pages of docs/: every command and block of Python on them runs, in order, in a folder of its own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT, SHORT

TASKS = ("remove", "check", "bench", "cluster", "production")
# What a page's commands are given beside what it says, so that each takes seconds; the last of an option counts.
BUDGET = {
    "attack": ["attack.images=2", "attack.tries=1", "attack.cells=1", "attack.judge_images=1", "model.steps=3"],
    "score": ["protocol.seeds=[188]", "dataset.test=2"],
    "": SHORT,
}
ATTACKED = ["dataset.train=2", "dataset.judge=1", "dataset.test=1", "protocol.seeds=[188]"]
PYTHON = {"steps=100": "steps=1, images=1", "steps=15": "steps=2"}
STOPPED = {"--check": (1, "protocol_version is")}  # a run so short is of another version, which no board takes
STEP = re.compile(r"```python\n(.*?)```|^ {4,}((?:python|fade) [^\n]*)$", re.DOTALL | re.MULTILINE)


def steps(page: str) -> list[str]:
    """A page's blocks of Python and its command lines, in order; what needs a cluster is left to test_slurm.py."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    return [python or line for python, line in STEP.findall(text) if "launcher=slurm" not in line]


def short(line: str) -> list[str]:
    """The words of a command line as they are run here."""
    program, *words = shlex.split(line, comments=True)
    if program == "fade":
        return [sys.executable, "-m", "fade", *words, *(["--cycles", "2"] if "verify" in words else [])]
    if words[0] == "run.py":
        task = next((word.removeprefix("task=") for word in words if word.startswith("task=")), "")
        given = {word.partition("=")[0] for word in words}
        words += [word for word in BUDGET.get(task, SHORT) if word.partition("=")[0] not in given]
        words += ATTACKED if task == "attack" else []
    return [sys.executable, *words]


def test_every_task_has_a_page_and_every_page_commands() -> None:
    assert all(len(steps(page)) >= 3 for page in TASKS)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The repository, seen from a folder where a page's outputs may lie."""
    for name in ("run.py", "conf", "sweeps", "fade", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("page", TASKS)
def test_a_task_is_done_as_its_page_says(page: str, checkout: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    for step in steps(page):
        python = "\n" in step
        if python:
            for long, few in PYTHON.items():
                step = step.replace(long, few)
        words = [sys.executable, "-c", step] if python else short(step)
        done = subprocess.run(words, cwd=checkout, env=environment, capture_output=True, text=True, timeout=600)
        code, said = next((known for flag, known in STOPPED.items() if flag in words), (0, ""))
        assert done.returncode == code and said in done.stdout, f"{step}\n{done.stdout[-500:]}\n{done.stderr[-1500:]}"


@pytest.mark.slow
@pytest.mark.processes
def test_the_site_is_built_from_files_alone_and_a_broken_link_ends_it(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    for name in ("docs", "fade", "benchmarks", "sweeps"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    for name in ("README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path / name)

    def built() -> subprocess.CompletedProcess[str]:
        away = {key: "http://127.0.0.1:9" for key in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
        words = [sys.executable, "docs/site/build.py", "out"]
        return subprocess.run(words, cwd=tmp_path, env={**os.environ, **away}, capture_output=True, text=True)

    done = built()
    assert done.returncode == 0 and done.stdout == "out/index.html\n", done.stderr[-2000:]
    pages = list((tmp_path / "out").rglob("*.html"))
    shown = [
        re.findall(r"<(?:script|img|link)[^>]*(?:src|href)=[\"']?(?:https?:)?//", page.read_text()) for page in pages
    ]
    assert len(pages) > 40 and not any(shown)
    assert 'id="fade.api.unlearn"' in (tmp_path / "out" / "api" / "fade.html").read_text()
    with (tmp_path / "docs" / "check.md").open("a") as page:
        page.write("\n[nowhere](nowhere.md)\n")
    done = built()
    assert done.returncode == 1 and "nowhere.md" in done.stderr
