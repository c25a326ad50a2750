"""One request after another: train, measure all requests so far, write it down; resumable at any point.

FOLDER/01-neon/adapter/, images/, predictions.csv, measured.json    one folder a request
FOLDER/revoked-05-watercolor/...                                    one for each request that was taken back
FOLDER/history.jsonl                                                who asked for what, when, with which result
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure.benchmark import Benchmark, Measured
from benchmarks.measure.metrics import Metric, hits, share
from benchmarks.measure.near import confusion, opinions
from benchmarks.measure.predictions import Row
from benchmarks.record.folder import Record, adapter_bytes, peak_memory_mb
from benchmarks.record.sequences import SequenceRun, request_folder
from benchmarks.report.pictures import progress
from benchmarks.runs.task import Task
from benchmarks.runs.trained import trained
from benchmarks.runs.verdict import end
from fade.adapters import Adapter, history
from fade.adapters.folder import read_card
from fade.adapters.stored import Stored
from fade.console import doing, within
from fade.data.dataset import Dataset
from fade.data.pairs import Request
from fade.errors import BadInput
from fade.files import read_json, unharmed, write_json
from fade.models import Diffusion
from fade.strategies import Strategy
from fade.training.logs import JsonLines
from fade.training.recipe import Recipe

log = logging.getLogger(__name__)


def check_requests(dataset: Dataset, lines: Iterable[str]) -> list[Request]:
    """Requests of lines "target > surrogate" or "target". Raises BadInput for a concept that is asked for twice, and
    for a surrogate that the sequence itself removes."""
    requests: list[Request] = []
    for line in lines:
        target, _, surrogate = (part.strip() for part in line.partition(">"))
        if target in [r.target for r in requests]:
            raise BadInput(f"the sequence asks for {target!r} twice; a request is met once")
        requests.append(Request.of(dataset, target, surrogate or None))
    targets = {r.target for r in requests}
    for request in requests:
        if request.surrogate in targets:
            left = [label for label in dataset.domains[request.domain] if label not in targets]
            raise BadInput(
                f"the surrogate {request.surrogate!r} of {request.target!r} is itself removed by this sequence; "
                f"what remains: {', '.join(left)}"
            )
    return requests


def check_revoked(revoke: Sequence[int], total: int) -> None:
    """Raises BadInput for a request that does not exist, or is taken back twice."""
    wrong = [place for place in revoke if not 1 <= place <= total]
    if wrong or len(set(revoke)) < len(revoke):
        raise BadInput(f"sequence.revoke is {list(revoke)}; name each of the requests 1 to {total} at most once")


def sequence(task: Task) -> None:
    """task=unlearn, of the requests of sequence=NAME; the strategy says how each builds on the last."""
    dataset = task.dataset()
    recipe, benchmark, asked = task.recipe(dataset), task.benchmark(dataset), task.values("sequence")
    requests = check_requests(dataset, asked["requests"])
    check_revoked(asked["revoke"], len(requests))
    strategy = task.make("strategy")
    strategy.check(recipe.method)
    for request in requests:
        benchmark.check_captions(request)
    chosen = task.chosen
    record = task.record(f"{dataset.name}-{asked['name']}-{chosen['method']}-{chosen['strategy']}")
    done = results = record.results
    if results is None:
        with record.kept():
            model = task.model()
            benchmark.suits(model)
            steps = [strategy.step(requests, k, recipe.method, recipe.sparsity, []) for k in range(len(requests))]
            recipe.check(model, steps)
            run = Continual(record, model, benchmark, requests, strategy, recipe, task.about(recipe, benchmark))
            results = run.run(asked["revoke"], chosen["strategy"])
    end(SequenceRun(record.folder, results), task.config["fail_under"], done is not None)


class Continual:
    """A run of requests on one model. about: what only the caller knows (method, seeds, overrides).

    `on` holds the adapters that are attached, by the place of their request.
    """

    def __init__(
        self,
        record: Record,
        model: Diffusion,
        benchmark: Benchmark,
        requests: list[Request],
        strategy: Strategy,
        recipe: Recipe,
        about: dict[str, Any],
    ) -> None:
        self.record, self.model, self.benchmark, self.requests = record, model, benchmark, requests
        self.strategy, self.recipe, self.about = strategy, recipe, about
        self.on: dict[int, Adapter] = {}
        self.base_sha256 = model.sha256()
        targets = {r.target for r in requests}
        self.never = {d: [x for x in labels if x not in targets] for d, labels in benchmark.dataset.domains.items()}

    def run(self, revoke: Sequence[int], strategy: str) -> dict[str, Any]:
        """Meet every request, then take back those of `revoke` (places from 1), each alone; write results.json."""
        self.record.keep_splits(self.benchmark.dataset)
        self.benchmark.check_judges()
        self.check_history()
        self.learn(0)  # before the base is measured: its first loss would wait for that
        self.model.to(self.benchmark.device)
        base = self.benchmark.measure_base(self.model, self.base_sha256)
        self.nearest = nearest(self.benchmark, base, self.requests, self.never)
        steps = [self.meet(k) for k in range(len(self.requests))]
        within("")
        doing("drawing comparison.png")
        folders = [self.folder(k) / "images" for k in range(len(self.requests))]
        progress(
            base.folder / "images", folders, self.benchmark.wanted, self.requests, self.record.folder / "comparison.png"
        )
        taken = [self.take_back(place - 1) for place in revoke]
        before = self.metrics(base, [])
        return self.record.finish(
            {
                "format": 1,
                "kind": "sequence",
                "dataset": self.benchmark.dataset.name,
                "protocol": self.benchmark.protocol.name,
                "sampling": self.benchmark.sampling(self.model),
                "requests": [vars(r) for r in self.requests],
                "nearest": self.nearest,
                "base": before,
                "steps": steps,
                "revoked": taken,
                "sums": self.strategy.sums,
                "summary": summary(steps, before),
                "base_sha256": self.base_sha256,
                "prediction": self.model.prediction,
                "peak_memory_mb": peak_memory_mb(),
                **self.about,
                "strategy": strategy,
            }
        )

    def folder(self, k: int) -> Path:
        return request_folder(self.record.folder, k, self.requests[k].target)

    def check_history(self) -> None:
        """Raises BadInput where the log tells of other requests than these, or of an adapter that is not there."""
        for line in history.read(self.record.folder, self.base_sha256):
            k = line["number"] - 1
            if k >= len(self.requests) or line["target"] != self.requests[k].target:
                raise BadInput(
                    f"{self.record.folder} has met {line['target']!r} as request {line['number']}, this sequence "
                    "asks for something else there; use another out=FOLDER"
                )
            if not (self.folder(k) / "adapter").is_dir():
                raise BadInput(
                    f"{self.folder(k) / 'adapter'} is missing, and history.jsonl says that it was made; put it "
                    "back, or begin anew in another out=FOLDER"
                )

    def meet(self, k: int) -> dict[str, Any]:
        """Train request k where it is not trained, attach it, measure where it is not measured."""
        folder, request = self.folder(k), self.requests[k]
        self.learn(k)
        card = read_card(folder / "adapter")
        if self.strategy.together:
            self.clear()
        for i in [k] if self.strategy.together else range(k + 1):
            self.put_on(i)
        found = unharmed(folder / "measured.json", read_json)
        if found is None:
            cost = {**card["cost"], "adapter_bytes": adapter_bytes(folder / "adapter")}
            found = {**self.measure(folder, range(k + 1)), "cost": cost}
            write_json(folder / "measured.json", found)
        event = {
            "event": "forgotten",
            "number": k + 1,
            **vars(request),
            "adapter_sha256": card["sha256"],
            "folder": folder.name,
            "ua": found["ua"][request.target]["value"],
        }
        history.append(self.record.folder, event, self.base_sha256)
        return found

    def learn(self, k: int) -> None:
        """Train request k where it is not trained, and leave the model as it was before."""
        folder, request = self.folder(k), self.requests[k]
        within(f"in request {k + 1} of {len(self.requests)},")
        if not (folder / "adapter").is_dir():
            log.info("request %d of %d: %s -> %s", k + 1, len(self.requests), request.target, request.surrogate)
            self.train(folder, self.requests, k, f"request{k + 1}")

    def train(self, folder: Path, requests: Sequence[Request], k: int, name: str) -> None:
        """Train and save one adapter, and leave the model as it was before."""
        if self.strategy.on_base:
            self.clear()
        used = [adapter.masks() for adapter in self.on.values()]
        step = self.strategy.step(requests, k, self.recipe.method, self.recipe.sparsity, used)
        loggers = [JsonLines(folder / "metrics.jsonl")]
        adapter, _ = trained(self.recipe, self.model, step, folder, self.record, self.about, name, loggers=loggers)
        adapter.detach()
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    def put_on(self, i: int) -> None:
        """Attach adapter i, merged where it can be: what is trained on top of it must not cost more each time."""
        if i not in self.on:
            try:
                self.on[i] = Stored.read(self.folder(i) / "adapter").attach(self.model, f"request{i + 1}")
            except BadInput as error:  # what came after was trained on it, so that it cannot be made again alone
                raise BadInput(f"{error}; put it back, or begin anew in another out=FOLDER") from error
            if self.on[i].writable:
                self.on[i].merge()

    def clear(self) -> None:
        for i in sorted(self.on, reverse=True):
            self.on.pop(i).detach()

    def measure(self, folder: Path, met: Sequence[int]) -> dict[str, Any]:
        """Images, predictions and metrics of the model as it stands; `met`: the requests that are in force."""
        self.model.to(self.benchmark.device)
        attached = list(self.on.values())
        assembled = self.strategy.assemble(self.model, attached)
        measured = self.benchmark.measure(self.model, folder)
        if assembled != attached:  # made for this measurement alone, in place of what was attached
            for adapter in assembled:
                adapter.detach()
            self.on = {}
        return {**self.metrics(measured, met), "generate_s": measured.cost["generate_s"]}

    def metrics(self, measured: Measured, met: Sequence[int]) -> dict[str, Any]:
        """UA of every request in force, retention of what was never asked for, and of the requests' neighbours."""
        domains, rows, shared = list(self.benchmark.dataset.domains), measured.rows, self.benchmark.protocol.shared
        ua = {self.requests[i].target: forgotten(rows, self.requests[i], domains, shared) for i in met}
        kept = {d: share(hits([r for r in rows if r[d] in self.never[d]], domains, d, shared)) for d in domains}
        close = sorted(set(self.nearest.values()))
        near = [hit for d in domains for hit in hits([r for r in rows if r[d] in close], domains, d, shared)]
        fid = self.benchmark.distances(measured, lambda cell: all(cell[d] in self.never[d] for d in domains))
        mean = float(np.mean([m["value"] for m in kept.values()]))
        return {"ua": ua, "kept": kept, "retention": mean, "nearest": share(near), **fid}

    def take_back(self, k: int) -> dict[str, Any]:
        """Drop request k, alone: others stay in force. Where one adapter serves all, it is trained anew without k."""
        folder = self.record.folder / f"revoked-{k + 1:02d}-{self.requests[k].target}"
        left = [i for i in range(len(self.requests)) if i != k]
        taken = unharmed(folder / "measured.json", read_json)
        if taken is None:
            self.clear()
            if self.strategy.together:
                requests = [self.requests[i] for i in left]
                if not (folder / "adapter").is_dir():
                    self.train(folder, requests, len(requests) - 1, "retrained")
                self.on[-1] = Stored.read(folder / "adapter").attach(self.model, "retrained")
            else:
                for i in left:
                    self.put_on(i)
            found, target = self.measure(folder, range(len(self.requests))), self.requests[k].target
            back = found["ua"].pop(target)
            taken = {"number": k + 1, "target": target, "back": back, **found}
            write_json(folder / "measured.json", taken)
        event = {
            "event": "revoked",
            "number": k + 1,
            **vars(self.requests[k]),
            "folder": folder.name,
            "ua": taken["back"]["value"],
        }
        history.append(self.record.folder, event, self.base_sha256)
        return taken


def forgotten(rows: list[Row], request: Request, domains: list[str], shared: bool = True) -> Metric:
    """UA of one request."""
    own = [row for row in rows if row[request.domain] == request.target]
    return share(hits(own, domains, request.domain, shared, gone=True))


def nearest(
    benchmark: Benchmark, base: Measured, requests: Sequence[Request], never: dict[str, list[str]]
) -> dict[str, str]:
    """For each request, the never-requested concept of its domain that the judge takes for the target most: by its mean
    probability for the target on the base model's images of the other."""
    found = {}
    for domain, judge in benchmark.judges.items():
        shown = torch.tensor([judge.labels.index(row[domain]) for row in base.rows])
        table = confusion(opinions(benchmark, judge, base)[0], shown)
        for request in (r for r in requests if r.domain == domain):
            own = judge.labels.index(request.target)
            mistaken = {label: float(table[judge.labels.index(label), own]) for label in never[domain]}
            found[request.target] = max(mistaken, key=mistaken.__getitem__)
    return found


def summary(steps: Sequence[dict[str, Any]], base: dict[str, Any]) -> dict[str, float]:
    """One line a strategy, over all requests: how much is gone at the end, how much is kept, what it cost."""
    last = [m["value"] for m in steps[-1]["ua"].values()]
    kept = [step["retention"] for step in steps]
    seconds = [step["cost"]["train_s"] for step in steps]
    first = {
        target: m["value"] for step in reversed(steps) for target, m in step["ua"].items()
    }  # right after its request
    return {
        "ua_mean": float(np.mean(last)),
        "ua_worst": min(last),
        "rebound": max(0.0, max(first[t] - steps[-1]["ua"][t]["value"] for t in first)),
        "retention": kept[-1],
        "retention_drop": base["retention"] - kept[-1],
        "retention_area": float(np.mean(kept)),
        "nearest": steps[-1]["nearest"]["value"],
        "seconds": sum(seconds),
        "last_over_first": seconds[-1] / seconds[0],
        "bytes": sum(step["cost"]["adapter_bytes"] for step in steps),
    }
