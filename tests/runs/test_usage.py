"""A command line that cannot be read is told in one line, with the nearest that can, and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT, Command, complaint
from configs import composed
from hydra.utils import instantiate

from benchmarks.runs.usage import Misused, check


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["sparsty=neuron"], "no group or key 'sparsty'; closest: sparsity"),
        (
            ["sparsity=neurn"],
            "sparsity has no option 'neurn'; it has dense, module, neuron, random, weight; closest: neuron",
        ),
        (["adapter=weights"], "adapter has no option 'weights' any more; it is adapter=patch"),
        (["experiment=unlearncanvas_object"], "any more; it is +sweeps=unlearncanvas_object"),
        (["dataset.source.test=2"], "no key dataset.source.test any more; it is dataset.test"),
        (["protocol.steps=20"], "no key protocol.steps any more; it is protocol.sampling.steps"),
        (["dataset=folder", "dataset.labels=[a,b]"], "no key dataset.labels any more; it is dataset.domains.object"),
        (["trainer.foo=1"], "no key trainer.foo; trainer has max_steps, max_epochs"),
        (["trainer.max_step=3"], "no key trainer.max_step; closest: trainer.max_steps"),
        (["lr=1e-4"], "no group or key 'lr'; closest: optimizer.build.lr"),
        (["method=fade", "method.variant=foo"], "no key method.variant with method=fade; it belongs to method=ca, "),
        (["~method.terms.retian"], "no key method.terms.retian; closest: method.terms.retain"),
        (["weights.forget=0.5"], "no key weights.forget any more; it is method.terms.forget"),
        (["+sweeps=sead"], "sweeps has no option 'sead'"),
        (["sweeps=seeds"], "no group or key 'sweeps'; closest: +sweeps"),
        (["target=neon,cat"], "several values need -m: python run.py -m target=neon,cat"),
        (["target=[neon, cat]"], "several values need -m: python run.py -m target=neon,cat"),
        (["trainer.max_steps=5,6"], "one value that is a list is written trainer.max_steps=[5,6]"),
        (["target='neon "], "quote the value for Hydra, and all of it for the shell: \"target='neon'\""),
        (["sequence.requests=[neon>photo, cat]"], "\"sequence.requests=['neon>photo','cat']\""),
        (["target=neon surrogate=photo"], "several options in one argument"),
        (["neon"], "an option is written KEY=VALUE"),
        (["launcher=slurm"], "launcher=slurm starts the runs of a sweep and needs -m"),
        (["target=neon", "target=cat"], "target is given twice, as neon and as cat"),
        (["surrogate="], "surrogate is empty"),
        (["task=unlaern"], "choose one of unlearn, score, plan, pretrain"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_is_one_line_and_two(
    tmp_path: Path, run: Command, overrides: list[str], said: str
) -> None:
    assert said in complaint(run(*overrides, code=2))
    assert not (tmp_path / "outputs").exists()


def test_what_is_given_twice_alike_or_deleted_and_given_is_no_mistake() -> None:
    check(["seed=1", "seed=1", "~trainer.devices", "+trainer.devices=2", "protocol.seeds=[188,288]", "-m", "a>b"])
    with pytest.raises(Misused, match="seed is given twice, as 1 and as 2"):
        check(["seed=1", "target=neon", "seed=2"])


def test_help_says_what_it_is_for_with_examples_and_every_concept(run: Command) -> None:
    """Not the resolved configuration, which is --cfg job."""
    said = run("--help").stdout
    dataset = instantiate(composed().dataset, _convert_="all")
    assert all(label in said for labels in dataset.domains.values() for label in labels)
    assert (
        "python run.py target=pencil_sketch" in said
        and "unlearning accuracy" in said
        and "neuron" in said
        and "--cfg job" in said
    )
    assert "_target_" not in said and "Hydra" not in said and len(said.splitlines()) < 60


@pytest.mark.processes
@pytest.mark.parametrize(
    "given",
    [
        "--help",
        "neon",
        "sparsty=neuron",
        "sparsity=neurn",
        "target=neno",
        "target=neon surrogate=cat",
        "seed=-1",
        "dataset.train=many",
        "output_dir=/dev/null",
        "launcher=slurm",
        "task=attack",
        "task=score",
    ],
)
def test_what_needs_no_model_is_answered_without_torch(given: str) -> None:
    """It takes seconds to import; the rest of the answer one or two."""
    command = [sys.executable, "-X", "importtime", "run.py", *given.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "hydra" in imported and not imported & {"torch", "diffusers", "lightning", "scipy"}
    assert done.returncode in ((0,) if given == "--help" else (1, 2))
