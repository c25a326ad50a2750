"""task=attack: can what a run, an adapter or a checkpoint forgot be brought back?

python run.py task=attack run=outputs/RUN attack=light          a finished run or sequence, or the folder of an adapter
python run.py task=attack model.path=DIR base=DIR target=neon   a pipeline or a checkpoint, and what it was made from
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure.benchmark import Benchmark
from benchmarks.measure.judging import check_accuracy
from benchmarks.record.sequences import request_folder
from benchmarks.report.attacks import robustness
from benchmarks.runs.reopened import opened
from benchmarks.runs.task import Task
from fade.adapters import history
from fade.adapters.stored import Stored
from fade.attacks import Attack, Counter, Scene
from fade.attacks.meter import Meter, Subject
from fade.attacks.never import Never
from fade.attacks.probe import Probe
from fade.attacks.suite import suite, zero_is_base
from fade.data.pairs import Request
from fade.errors import BadInput
from fade.files import content_hash, read_json
from fade.models import Diffusion
from fade.pretrain.oracle import load_oracle, oracle_folder


@dataclass(frozen=True)
class Victim:
    """What is attacked: the task its models and benchmark are made of, its target, and the folders of its adapters,
    in the order in which they are attached; requests: of a sequence, whose strategy says what is made of them."""

    task: Task
    target: str
    surrogate: str | None
    folder: Path
    adapters: tuple[Path, ...] = ()
    within: str | None = None
    requests: bool = False

    def models(self, base: str | None) -> tuple[Diffusion, Diffusion, str]:
        """The model under attack, the base, and the identity of the first: twice loaded, the adapters merged where they
        can be."""
        if not self.adapters:
            model, before = self.task.model(), pipeline(self.task, str(base))
            alike(model, before)
            return model, before, model.sha256()
        model, before = self.task.model(), self.task.make("model")
        stored = [Stored.read(folder) for folder in self.adapters]
        attached = []
        for k, one in enumerate(stored, 1):  # merged one by one, as they were when the next was trained
            attached.append(one.attach(model, f"request{k}"))
            if attached[-1].writable:  # a LoRA with a gate is not
                attached[-1].merge()
        known = [before.sha256(), *(one.about["sha256"] for one in stored)]
        if self.requests:
            self.task.make("strategy").assemble(model, attached)
            known.append(self.task.values("strategy"))
        return model, before, content_hash(known)


def victims(task: Task, given: str | None) -> list[Victim]:
    """given: the folder of a run, of a sequence or of an adapter; None: the checkpoint of the configuration. Of a
    sequence each of its requests, or the one that the command line names as its target, after the last of them.

    Raises BadInput where what is named is none of them.
    """
    out = Path(task.config["out"]) if task.config["out"] else None
    if given is None:
        return [_checkpoint(task, out)]
    run, place = Path(given), "attacks" if task.config["seed"] == 0 else f"attacks/seed-{task.config['seed']}"
    if (run / "adapter.json").is_file():
        about = Stored.read(run).about
        within = (about.get("within") or [None])[-1]
        return [Victim(task, about["target"], about["surrogate"], out or run.parent / place, (run,), within)]
    if not (run / "results.json").is_file():
        raise BadInput(f"{run} is no finished run and no adapter: results.json and adapter.json are missing")
    results = read_json(run / "results.json")
    if results.get("kind") == "sequence":
        return _requests(task, run, results["requests"], out or run / place)
    if "target" not in results or not (run / "adapter").is_dir():
        raise BadInput(f"{run} is no run of one target with an adapter; name one, or the folder of an adapter")
    own = opened(task, run)
    found = results["target"], results["surrogate"], out or run / place, (run / "adapter",), own.config.get("within")
    return [Victim(own, *found)]


def _checkpoint(task: Task, out: Path | None) -> Victim:
    config = task.config
    name = f"attack-{config['target']}-{content_hash([config['model'], config['base']])[:8]}"
    folder = out or Path(config["output_dir"]) / name
    return Victim(task, config["target"], config["surrogate"], folder, (), config["within"])


def _requests(task: Task, run: Path, requests: Sequence[Mapping[str, Any]], to: Path) -> list[Victim]:
    own, targets = opened(task, run), [request["target"] for request in requests]
    wanted = [task.config["target"]] if said(task, "target") else targets
    if wanted[0] not in targets:
        raise BadInput(f"{run} removes no {wanted[0]!r}; its requests are {', '.join(targets)}")
    folders = [request_folder(run, k, target) for k, target in enumerate(targets)]
    used = folders[-1:] if own.make("strategy").together else folders
    adapters = tuple(folder / "adapter" for folder in used)
    return [
        Victim(own, r["target"], r["surrogate"], to / folder.name, adapters, r.get("within"), requests=True)
        for r, folder in zip(requests, folders, strict=True)
        if r["target"] in wanted
    ]


def pipeline(task: Task, path: str) -> Diffusion:
    """Another folder than the configuration's, loaded as it says."""
    return task.of({**task.config, "model": {**task.config["model"], "path": path}}).model()


def alike(model: Diffusion, base: Diffusion) -> None:
    """Raises BadInput where `base` has other parts than the model, which was made from another then."""
    for part, module in model.named_children():
        own, theirs = ({k: v.shape for k, v in m.state_dict().items()} for m in (module, getattr(base, part)))
        if own != theirs:
            raise BadInput(f"base has another {part} than the model under attack; name the pipeline it was made from")


def oracle_of(task: Task, victim: Victim) -> str | None:
    """The one that the command line says, else the run's own: what the default model brings with it may be of another
    family than the run's."""
    return (task if said(task, "oracle") else victim.task).config.get("oracle")


def said(task: Task, key: str) -> bool:
    """Whether the command line gives it."""
    return any(override.partition("=")[0] == key for override in task.overrides)


def chosen(task: Task) -> dict[str, Attack]:
    """The attacks that the configuration names. Raises BadInput where there are none."""
    found = {
        name: task.make(f"attack.{name}")
        for name, part in task.config["attack"].items()
        if isinstance(part, Mapping) and "_target_" in part
    }
    if not found:
        raise BadInput("attack names no attack; choose attack=light, or a list: attack=[prompts,relearn]")
    return found


def meter_of(
    benchmark: Benchmark, request: Request, model: Diffusion, base: Diffusion, given: Mapping[str, Any], seed: int
) -> Meter:
    """Raises BadInput where there is no image of the target to start from."""
    protocol = benchmark.protocol
    cells = [cell for cell in benchmark.dataset.cells() if request.concerns(cell)]
    cells = cells[:: -(-len(cells) // given["cells"])]
    scene = Scene(model, base, benchmark.dataset, request, cells, benchmark.prompt, protocol.sampling, Counter(), seed)
    scene.examples(1)
    probe = Probe.of(base, benchmark.dataset, request.domain, given["judge_images"], benchmark.cache)
    drawn = given["images"], given["tries"], given["seeds"], list(protocol.seeds)
    return Meter(scene, benchmark.judges, probe, *drawn, benchmark.cache, given["haste"])


def check_seeds(own: list[int], fresh: Sequence[int]) -> None:
    """Raises BadInput where the attacker's seeds are the report's."""
    if both := set(own) & set(fresh):
        raise BadInput(f"attack.seeds has {min(both)}, which the report draws with; give the attacker seeds of its own")


def runs_of(given: str | None) -> list[str | None]:
    """The folder itself, or those of the finished runs that it holds."""
    if given is None or any((Path(given) / name).is_file() for name in ("results.json", "adapter.json")):
        return [given]
    within = sorted(path.parent for path in Path(given).glob("*/results.json"))
    return [str(run) for run in within if (run / "adapter").is_dir() or (run / history.NAME).is_file()] or [given]


def attacked(task: Task) -> None:
    """task=attack, of a run, of all runs in a folder, of a sequence, of an adapter or of a checkpoint."""
    attacks = chosen(task)
    for run in runs_of(task.config["run"]):
        for victim in victims(task, run):
            attack(task, attacks, victim)


def attack(task: Task, attacks: Mapping[str, Attack], victim: Victim) -> None:
    """One of them: measured, written beside it and printed."""
    config, given = task.config, task.config["attack"]
    benchmark = victim.task.benchmark(victim.task.dataset())
    check_seeds(given["seeds"], benchmark.protocol.seeds)
    check_accuracy(benchmark.accuracies, benchmark.protocol.judge_floor)
    request = Request.of(benchmark.dataset, victim.target, victim.surrogate, victim.within)
    model, before, identity = victim.models(config["base"])
    for one in (model, before):
        one.to(benchmark.device)
    folder = oracle_folder(oracle_of(task, victim), request.target)
    never = None if folder is None else load_oracle(folder, before, request.target)
    oracle = None if never is None else Subject("oracle", never, never.sha256())
    meter = meter_of(benchmark, request, model, before, given, config["seed"])
    base = Subject("base", before, before.sha256())
    if not zero_is_base(meter, base):
        raise RuntimeError("an adapter of zeros does not draw what the base draws; no attack can be measured")
    learnt = given["never"] and any(one.shown for one in attacks.values())
    taught = learnt and oracle is None  # which says the same, and better
    unseen = Never.of(benchmark.dataset, request, benchmark.judges[request.domain], model.size) if taught else None
    rows = suite(meter, attacks, Subject("attacked", model, identity), base, oracle, victim.folder, unseen)
    print(robustness(rows, request.target))
    print(f"{victim.folder}/: NAME.json, NAME.png")
