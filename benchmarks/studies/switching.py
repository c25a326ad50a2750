"""When does a concept settle? Prompts switched after each step of the sampler, and what the judge reads (PCI).

python -m benchmarks.studies.switching pencil_sketch house_cat --out outputs/switching
python -m benchmarks.studies.switching pencil_sketch --pipeline fade/shipped/canvas_flow/pipeline --out outputs/flow

On the untouched base, of one noise: k steps under the target's caption and the rest under its surrogate's; and the
other way round. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.report.tables import Table
from fade.attacks.trajectory import pictures
from fade.console import Stage, command, one_line
from fade.data.dataset import Dataset
from fade.data.pairs import Request
from fade.errors import BadInput, at_least
from fade.files import content_hash, read_json, unharmed, write_json
from fade.judges import Judge
from fade.models import Diffusion, Noise
from fade.models.families import family_at
from fade.published import embedded, made
from fade.switching import rise, stretch, switched, travelled

WAYS = {"target first": False, "surrogate first": True}  # PCI's is the second: when is it too late to bring it in?
LOW, HIGH = 0.1, 0.9  # conf/timesteps/switched.yaml
SEED = 7000  # of the first image's noise


@dataclass(frozen=True)
class Curve:
    """read (S + 1,): the share of images read as the target after a switch at step k; travelled (S + 1,): how far their
    latents are toward it, judged by nobody. times (S,): the sampler's, of `total`. n: images a point."""

    target: str
    way: str
    read: list[float]
    travelled: list[float]
    times: list[float]
    total: int
    n: int

    def window(self, curve: list[float]) -> tuple[float, float] | None:
        """The times in which a curve goes from one end to the other; None where it does not leave its beginning."""
        rising = torch.tensor([1 - x for x in curve] if WAYS[self.way] else curve)
        try:
            return stretch(torch.tensor(self.times), rise(rising, LOW, HIGH), self.total)
        except BadInput:
            return None


@torch.no_grad()
def curve_of(
    model: Diffusion, dataset: Dataset, judges: dict[str, Judge], request: Request, way: str, cells: int, seed: int
) -> Curve:
    """One target, one way of switching: `cells` of its cells, a noise each."""
    own = [cell for cell in dataset.cells() if request.concerns(cell)][:cells]
    captions = [dataset.caption(cell) for cell in own], [dataset.caption(request.overwritten(cell)) for cell in own]
    first, then = map(model.embed, captions[::-1] if WAYS[way] else captions)
    noise = torch.cat([model.latent(Noise(seed + i)) for i in range(len(own))]).to(model.device)
    times, latents = switched(model, first, then, noise, model.steps, model.guidance)
    judge = judges[request.domain]
    read = [judge.probabilities(pictures(model, z)).argmax(1) == judge.labels.index(request.target) for z in latents]
    gone = travelled(latents)
    return Curve(
        request.target,
        way,
        torch.stack(read).float().mean(1).tolist(),
        (1 - gone if WAYS[way] else gone).tolist(),
        times.tolist(),
        model.train_steps,
        len(own),
    )


def study(
    model: Diffusion, dataset: Dataset, judges: dict[str, Judge], targets: Sequence[str], cells: int, out: Path
) -> list[Curve]:
    """Each curve is a file as soon as it is known, and is not made again."""
    requests = [Request.of(dataset, target, None) for target in targets]
    stage, found = Stage("switching prompts", len(requests) * len(WAYS), "at curve"), []
    for request in requests:
        for way in WAYS:
            name = content_hash([model.sha256(), dataset.name, request.target, request.surrogate, way, cells])
            path = out / "curves" / f"{request.target}-{name}.json"
            if (known := unharmed(path, read_json)) is None:
                known = asdict(curve_of(model, dataset, judges, request, way, cells, SEED))
                write_json(path, known)
            found.append(Curve(**known))
            stage.one()
    return found


def tables(curves: Sequence[Curve], out: Path) -> str:
    """The curves and their windows, as text and as files in `out`."""
    steps = [str(k) for k in range(len(curves[0].read))]
    rows = [[c.target, c.way, "read", *(f"{100 * x:.0f}" for x in c.read)] for c in curves]
    rows += [[c.target, c.way, "travelled", *(f"{100 * x:.0f}" for x in c.travelled)] for c in curves]
    shares = Table.of(["target", "until the switch", "percent", *steps], sorted(rows, key=lambda row: row[2]))
    windows = Table.of(
        ["target", "until the switch", "images a point", "t, read", "t, travelled"],
        [[c.target, c.way, str(c.n), *map(said, (c.window(c.read), c.window(c.travelled)))] for c in curves],
    )
    shares.write(out, "curves")
    windows.write(out, "windows")
    return f"{shares.markdown()}\n\n{windows.markdown()}"


def said(window: tuple[float, float] | None) -> str:
    return "none" if window is None else f"{window[0]:g}-{window[1]:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", help="concepts of the embedded grid")
    parser.add_argument("--pipeline", help="folder of a pipeline of that grid; the embedded default without it")
    parser.add_argument("--cells", type=int, default=8, help="images of each target, one a cell")
    parser.add_argument("--out", type=Path, required=True, help="a folder for curves and windows")
    given = parser.parse_args()
    with one_line(given.out):
        at_least(1, cells=given.cells)
        known = embedded() or {}
        path, settings = given.pipeline or known["model"]["path"], known["model"]
        model = family_at(path).load(path, settings["steps"], settings["guidance"])
        judges = {domain: Judge.load(folder).eval() for domain, folder in known["judges"].items()}
        logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
        print(tables(study(model, made(known["dataset"]), judges, given.targets, given.cells, given.out), given.out))


if __name__ == "__main__":
    command(main)
