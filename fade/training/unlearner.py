"""The LightningModule that runs both stages of every method: locate, then minimise the weighted sum of its terms."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fade.adapters import Adapter
from fade.checked import Count, Seed, Whole
from fade.claims import once
from fade.console import Shown, Stage, doing, quiet
from fade.data.pairs import Batch, Pairs
from fade.errors import BadInput, at_least
from fade.files import unharmed
from fade.methods import Method, Take
from fade.models import Diffusion
from fade.saliency import Saliency, Scores, flat, gathered
from fade.sparsity import Sparsity, summed
from fade.tensors import not_finite, read_tensors, write_tensors
from fade.timesteps import Timesteps, with_timesteps
from fade.training.checkpoint import SafeCheckpoint, read_checkpoint
from fade.training.logs import JsonLines, Mirror, layers
from fade.training.ranks import check_world, end_group, follow, lead, leads, share

log = logging.getLogger(__name__)
LOOK = 10  # steps between two looks at the loss: for each the host waits until a GPU has caught up
MEASURED = "timesteps"  # in the saliency's file: what the distribution of timesteps measured
OptimizerOf = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Trainer(L.Trainer):
    """Lightning's. compile: whether the network, as student and as teacher, runs through torch.compile in stage two."""

    def __init__(self, *, compile: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.compiles = compile


class Unlearner(L.LightningModule):
    """Trains `adapter` so that `model` forgets the request of `pairs`.

    warmup: steps of linear warm-up; then the rate falls along a cosine
    where `cosine` is set. Step i draws everything from (seed, i), so a resumed run ends as an undisturbed one.
    """

    def __init__(
        self,
        model: Diffusion,
        adapter: Adapter,
        pairs: Pairs,
        method: Method,
        sparsity: Sparsity,
        optimizer: OptimizerOf,
        timesteps: Timesteps,
        saliency_file: Path,
        locate_batch: Count = 16,
        warmup: Whole = 0,
        cosine: bool = False,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        at_least(1, optimizer__schedule__locate_batch=locate_batch)
        sparsity.suits(adapter.weights())
        timesteps.suits(model)
        method.check_part(model, adapter)
        method.suits(model, adapter, pairs)
        self.model, self.adapter, self.pairs, self.method, self.sparsity = model, adapter, pairs, method, sparsity
        self.sides = summed(sparsity, adapter)
        self.make_optimizer, self.saliency_file = optimizer, saliency_file
        if self.sides:  # of whole scores, too, there may be a file
            self.saliency_file = saliency_file.parent / f"{saliency_file.stem}-sides.safetensors"
        self.timesteps, self.measured = timesteps, torch.zeros(0)
        self.locate_batch, self.warmup, self.cosine, self.seed = locate_batch, warmup, cosine, seed
        self.strict_loading = False
        self.located = False
        self.locate_s = self.distil_s = 0.0
        self.drawn = torch.zeros(10)  # how often a timestep of each tenth was drawn, on the forget side
        self._mark = time.monotonic()
        self._unseen: list[tuple[int, Tensor]] = []  # the losses since the last look, with their steps
        self.loss = math.nan  # the last one that was seen

    # stage one

    def on_fit_start(self) -> None:
        check_world(self.trainer.world_size, self.pairs.batch, self.method.combines, self.method.passes)
        follow(self.trainer)
        began = time.monotonic()
        with self.adapter.off():  # captions as the teacher reads them, also where training goes on
            self.pairs.prepare(self.model)
        doing("locating: what the concept rests on")
        self.method.prepare(self.model, self.adapter, self.pairs)
        with self.trainer.precision_plugin.forward_context():
            saliency = self.saliency()
            if not self.located:
                self.adapter.set_masks(self.sparsity(saliency) if saliency else self.adapter.masks())
                torch.manual_seed(self.seed)  # the same draws whether stage one was read from its file or not
                self.method.edit(self.model, self.adapter, self.pairs)
                self.log_layers(saliency)
                self.located = True
        self.locate_s += time.monotonic() - began
        lead(self.trainer)
        log.info(
            "located: %.2f %% of %d candidate weights kept (%s)",
            100 * self.adapter.density(),
            self.adapter.candidates(),
            self.sparsity.kind,
        )

    def saliency(self) -> Saliency:
        """Stage one, or its file where that is written already, by this run or by one that shares it.

        Scores are left out where everything is kept anyway. What the timesteps' distribution found is in the file too.
        What it cost is counted in either case: a method is charged as if it stood alone.
        """
        began, here = time.monotonic(), list[Scores]()
        found, about = once(
            self.saliency_file, read_tensors, lambda: here.append(self._scores()), "what stage one finds"
        )
        if not (here or self.located):
            self.locate_s += float(about["seconds"]) - (time.monotonic() - began)
        self.measured = found.pop(MEASURED).to(self.model.device)
        return gathered({name: values.to(self.model.device) for name, values in found.items()})

    def _scores(self) -> Scores:
        """Stage one, written to its file."""
        began = time.monotonic()
        torch.manual_seed(self.seed)
        batches = self.pairs.sweep(self.locate_batch, torch.Generator().manual_seed(self.seed))
        shown = Shown(batches, "locating", "while locating, in batch")
        scored = self.sparsity.kind != "dense"
        found = flat(self.method.locate(self.model, self.adapter, shown, self.sides)) if scored else {}
        found[MEASURED] = self.timesteps.measure(self.model, batches)
        write_tensors(self.saliency_file, found, {"seconds": str(time.monotonic() - began)})
        return found

    def log_layers(self, saliency: Saliency) -> None:
        self._log_table("layers", [dict(layer) for layer in layers(saliency, self.adapter.masks())])

    def _log_table(self, name: str, rows: list[dict[str, Any]]) -> None:
        for logger in self.trainer.loggers:
            if isinstance(logger, (JsonLines, Mirror)):
                logger.log_rows(name, rows)

    # stage two

    def on_train_start(self) -> None:
        self._mark = time.monotonic()
        self._stage = Stage("distil", self.trainer.max_steps, "at step", first=self.trainer.global_step)
        for logger in self.trainer.loggers:
            if isinstance(logger, JsonLines) and self.trainer.is_global_zero:
                logger.go_on_from(self.trainer.global_step)
        if isinstance(self.trainer, Trainer) and self.trainer.compiles:
            self.model.network.forward = torch.compile(self.model.network.forward)  # hooks stay outside

    def training_step(self, _: Tensor, __: int) -> Tensor:
        step, together = self.trainer.fit_loop.total_batch_idx, self.trainer.accumulate_grad_batches
        if step % together == 0:
            self.method.before_step(step // together, self.adapter, self._taker(step))
        batch = self._drawn(step)
        t = batch["forget"]["t"].float()
        self.drawn = self.drawn.to(t.device) + torch.histc(t, len(self.drawn), 0, self.model.train_steps)
        batch = share(batch, self.trainer)
        losses = self.method.losses(self.model, self.adapter, batch)
        total = self._objective(losses, self.method.terms)
        self.check_loss(total.detach(), step // together + 1)
        self.log_dict({f"loss/{name}": value for name, value in losses.items()}, sync_dist=True)
        self.log("loss/total", total, prog_bar=True, sync_dist=True)
        self.log("rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log("timestep", batch["forget"]["t"].float().mean(), sync_dist=True)
        return total

    def _objective(self, losses: dict[str, Tensor], terms: Mapping[str, float]) -> Tensor:
        """The weighted sum of the terms with a weight, with the gradient that the method makes of all its terms'."""
        weighted = {name: terms[name] * value for name, value in losses.items() if name in terms}
        total = torch.stack(list(weighted.values())).sum()
        return self._combined(weighted, total) if self.method.combines and len(weighted) == len(losses) else total

    def _drawn(self, step: int, further: int = 0) -> Batch:
        """The batch of a step, or of one of the further steps that a method takes before it; the global generator too
        is seeded by their numbers."""
        seed = self.seed * 1_000_003 + step + 1 + further * 15_485_863_000_003
        torch.manual_seed(seed)
        batch = self.pairs.draw(torch.Generator().manual_seed(seed))
        return with_timesteps(batch, self.timesteps, self.measured, self.model.process)

    def _taker(self, step: int) -> Take:
        """Further steps of the optimizer before `step`, which the trainer does not count: Method.before_step."""
        numbers = count(1)

        def take(terms: dict[str, float] | None) -> None:
            (optimizer,) = self.trainer.optimizers
            optimizer.zero_grad()
            for _ in range(self.trainer.accumulate_grad_batches):
                losses = self.method.losses(self.model, self.adapter, self._drawn(step, next(numbers)))
                (self._objective(losses, terms or self.method.terms) / self.trainer.accumulate_grad_batches).backward()
            self.clip_gradients(optimizer, self.trainer.gradient_clip_val, self.trainer.gradient_clip_algorithm)
            optimizer.step()
            self.adapter.project()
            self.method.stepped(self.adapter)

        return take

    def check_loss(self, total: Tensor, step: int) -> None:
        """Look at the losses that wait: on a CPU at each step, elsewhere at the first, every LOOK-th and the last."""
        self._unseen.append((step, self.trainer.strategy.reduce(total, reduce_op="mean")))
        if step in (1, self.trainer.max_steps) or step % LOOK == 0 or total.device.type == "cpu":
            self.look()

    def look(self) -> None:
        """Raises BadInput, in all processes at once, where a loss is no finite number: nor would any later one be."""
        steps, losses = [step for step, _ in self._unseen], [loss for _, loss in self._unseen]
        self._unseen = []
        for step, value in zip(steps, torch.stack(losses).tolist() if losses else [], strict=True):
            self.loss = value
            if math.isfinite(value):
                continue
            where = f"the loss is {value} at step {step} of {self.trainer.max_steps}"
            if step == 1:
                raise BadInput(
                    f"{where}, before anything was trained: the pipeline itself gives no numbers; try "
                    "trainer.precision=32"
                )
            raise BadInput(f"{where}; {self._lower_the_rate()}")

    def _lower_the_rate(self) -> str:
        return f"lower optimizer.build.lr (it is {self.trainer.optimizers[0].param_groups[0]['initial_lr']:g})"

    @torch.no_grad()
    def check_learned(self) -> None:
        """Raises BadInput where no step was taken, or the adapter holds nan or inf or changes nothing: never saved."""
        step, steps = self.trainer.global_step, self.trainer.max_steps
        if self.method.terms and not step:
            raise BadInput(f"none of the {steps} steps was trained; check what the trainer was given beside max_steps")
        broken, weights, moved = not_finite(self.adapter.state()), self.adapter.weights(), False
        for name in weights:  # finite factors may have a product that is not
            change = self.adapter.delta(name)
            broken, moved = broken or not_finite({name: change}), moved or bool(change.any())
        if broken:
            advice = self._lower_the_rate() if self.method.terms else "the method's own settings are out of range"
            raise BadInput(f"the adapter's {broken} is not finite after step {step} of {steps}; {advice}")
        if weights and not moved:
            raise BadInput(
                f"the adapter changes nothing after step {step} of {steps}; raise optimizer.build.lr or the loss "
                f"weights"
            )

    def _combined(self, weighted: dict[str, Tensor], total: Tensor) -> Tensor:
        """A scalar with the value of `total` whose gradient is what the method makes of its terms' gradients."""
        parameters = self.adapter.parameters()
        gradients = {}
        for name, value in weighted.items():
            found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
            gradients[name] = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        step = self.method.combine(gradients)
        product = sum(((p * g).sum() for p, g in zip(parameters, step, strict=True)), start=torch.zeros_like(total))
        return product + (total - product).detach()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.adapter.project()
        self.method.stepped(self.adapter)

    def on_train_end(self) -> None:
        width = self.model.train_steps // len(self.drawn)
        self._log_table(
            "timesteps",
            [{"from": i * width, "to": (i + 1) * width, "drawn": int(n)} for i, n in enumerate(self.drawn.tolist())],
        )

    def train_dataloader(self) -> DataLoader:
        """Counts steps; `training_step` draws by the step's number, which Lightning restores on resume."""
        steps = max(self.trainer.max_steps, 1) * self.trainer.accumulate_grad_batches
        return DataLoader(range(steps), batch_size=None)  # type: ignore[arg-type]

    def configure_optimizers(self) -> Any:
        if not self.adapter.parameters():
            return None
        optimizer = self.make_optimizer(self.adapter.parameters())
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        warm = min(1.0, (step + 1) / (self.warmup + 1))
        if not self.cosine:
            return warm
        return warm * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * step / max(1, self.trainer.max_steps)))))

    # checkpoints hold the adapter alone

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return self.adapter.state()

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        self.adapter.load_state(state_dict)
        self.located = True
        return torch.nn.modules.module._IncompatibleKeys([], [])

    def on_train_batch_end(self, outputs: Any, *_: Any) -> None:
        now = time.monotonic()
        self.distil_s += now - self._mark
        self._mark = now
        if leads():
            self._stage.done(self.trainer.global_step, "" if math.isnan(self.loss) else f", loss {self.loss:.5f}")

    def cost(self) -> dict[str, float]:
        """What training took: seconds of either stage, forwards of the teacher, steps."""
        return {
            "locate_s": self.locate_s,
            "distil_s": self.distil_s,
            "teacher_passes": self.adapter.teacher_passes,
            "steps": self.trainer.global_step,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.look()  # what holds no numbers is not kept
        checkpoint["drawn"], checkpoint["cost"], checkpoint["method"] = self.drawn, self.cost(), self.method.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.drawn = checkpoint["drawn"]
        self.method.load_state(checkpoint["method"])
        self.locate_s, self.distil_s = checkpoint["cost"]["locate_s"], checkpoint["cost"]["distil_s"]
        self.adapter.teacher_passes = checkpoint["cost"]["teacher_passes"]


def checkpoints(folder: Path, every: int) -> list[Callback]:
    """One rolling checkpoint, every `every` steps."""
    return [
        ModelCheckpoint(folder, filename="last", every_n_train_steps=every, save_top_k=1, enable_version_counter=False)
    ]


@contextmanager
def own_forward(network: nn.Module) -> Iterator[None]:
    """Afterwards the network's forward is the one that it came with."""
    own = vars(network).get("forward")
    try:
        yield
    finally:
        vars(network).pop("forward", None)
        if own is not None:
            vars(network)["forward"] = own


def fit(
    unlearner: Unlearner, make_trainer: Callable[..., L.Trainer], folder: Path, every: int, loggers: list[Any]
) -> L.Trainer:
    """Train, going on from the checkpoint in `folder` where there is one, and from the first step where it is harmed.
    Raises BadInput where nothing came of it."""
    plugins: list[Any] = [SafeCheckpoint()]
    with quiet():
        if (
            SLURMEnvironment.detect()
        ):  # who started the job queues it again (submitit, an operator): Lightning must not too
            plugins.append(SLURMEnvironment(auto_requeue=False))
        trainer = make_trainer(
            callbacks=checkpoints(folder, every), plugins=plugins, logger=loggers or False, default_root_dir=folder
        )
        at_least(1, trainer__accumulate_grad_batches=trainer.accumulate_grad_batches)
        last = folder / "last.ckpt"
        whole = unharmed(last, read_checkpoint) is not None  # each process asks: all go on from it, or all begin anew
        with own_forward(unlearner.model.network):
            trainer.fit(unlearner, ckpt_path=last if whole else None)
    end_group()
    unlearner.method.finish(unlearner.adapter)
    unlearner.adapter.settle()
    unlearner.check_learned()
    return trainer
