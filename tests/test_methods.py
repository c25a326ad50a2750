"""Every method against its paper: formula, gradient, passes, weights, invariants, and a run from yaml to file and
back.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from command import SHORT, Command, complaint
from conftest import inputs, shake
from diffusers import DDIMScheduler
from hydra.utils import instantiate
from omegaconf import DictConfig
from test_config import ROOT, composed
from test_stages import Killed, dying, quiet
from torch import Tensor, nn

from fade.adapters import Adapter
from fade.adapters.gate import Gate
from fade.adapters.lora import Lora
from fade.adapters.matrix import Matrix
from fade.adapters.patch import Patch
from fade.adapters.stored import Stored
from fade.adapters.text import TextEdit, suppressed
from fade.data.minicanvas import MiniCanvas
from fade.data.pairs import Batch, Pairs, Request
from fade.errors import BadInput
from fade.methods import Method, noised
from fade.methods.ca import ConceptAblation
from fade.methods.ediff import EraseDiff
from fade.methods.esd import Esd
from fade.methods.fade import Fade
from fade.methods.fmn import ForgetMeNot
from fade.methods.lacu import Lacu
from fade.methods.salun import SalUn
from fade.methods.seot import Seot
from fade.methods.shs import ScissorHands
from fade.methods.spm import Spm, anchored
from fade.methods.uce import Uce, aligned, solve
from fade.models import Diffusion
from fade.timesteps import Uniform, with_timesteps
from fade.training.unlearner import Unlearner, fit

METHODS = [path.stem for path in sorted((ROOT / "conf" / "method").glob("*.yaml"))]
STEPS = 4  # of the sampler that ESD and SPM train on
Losses = dict[str, Tensor]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents are encoded once for all tests here: every `model` is the same."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def pairs(dataset: MiniCanvas, model: Diffusion, cache: Path) -> Pairs:
    request = Request.of(dataset, "neon", "photo")
    pairs = Pairs(dataset, request, forget=16, retain=64, batch=2, cache=cache)
    pairs.prepare(model)
    return pairs


# each method's loss, written again: with its own noise, its own sampler, its own teacher


class Formula:
    """The losses of one batch as functions of the live weights; what stands behind a stop-gradient is computed once."""

    def __init__(self, model: Diffusion, base: nn.Module, batch: Batch, method: Any = None) -> None:
        self.unet, self.base, self.batch, self.method = model.unet, base, batch, method
        self.empty = model.embed([""])
        self.alphas, self.v = (
            model.pipe.scheduler.alphas_cumprod,
            model.pipe.scheduler.config.prediction_type == "v_prediction",
        )

    def noised(self, side: str) -> tuple[Tensor, Tensor]:
        example: Any = self.batch[side]  # type: ignore[literal-required]
        alpha = self.alphas[example["t"]].to(example["latents"])[:, None, None, None]
        return alpha.sqrt() * example["latents"] + (1 - alpha).sqrt() * example["noise"], example["t"]

    def denoising(self, side: str, caption: str = "prompt") -> Tensor:
        z, t = self.noised(side)
        example: Any = self.batch[side]  # type: ignore[literal-required]
        alpha = self.alphas[t].to(z)[:, None, None, None]
        velocity = alpha.sqrt() * example["noise"] - (1 - alpha).sqrt() * example["latents"]
        return ((self.unet(z, t, example[caption]).sample - (velocity if self.v else example["noise"])) ** 2).mean()

    def sampled(self, unet: nn.Module, c: Tensor, guidance: float = 3.0, least: int = 0) -> tuple[Tensor, int]:
        """DDIM (η = 0) from pure noise to a random step of STEPS, drawn as the methods draw."""
        torch.manual_seed(7)
        stop = int(torch.randint(least, STEPS, (1,)))
        z = torch.randn(len(c), 4, 8, 8, dtype=c.dtype)
        times = self.times(STEPS)
        return self.ddim(unet, z, c, times, stop, guidance), times[stop]

    def times(self, steps: int) -> list[int]:
        """The v-model's are spaced from the end of training, as shipped; the other's from its beginning, one later."""
        return [
            (steps - k) * 1000 // steps - 1 if self.v else 1 + (steps - 1 - k) * 1000 // steps for k in range(steps)
        ]

    @torch.no_grad()
    def ddim(self, unet: nn.Module, z: Tensor, c: Tensor, times: list[int], stop: int, guidance: float) -> Tensor:
        for t in times[:stop]:
            found = unet(z, t, c).sample
            if guidance != 1:
                empty = unet(z, t, self.empty.expand_as(c)).sample
                found = empty + guidance * (found - empty)
            before = t - 1000 // len(times)
            now, then = self.alphas[t].to(z), self.alphas[before].to(z) if before >= 0 else torch.ones(()).to(z)
            x_0, ε = (z - (1 - now).sqrt() * found) / now.sqrt(), found
            if self.v:
                x_0, ε = now.sqrt() * z - (1 - now).sqrt() * found, now.sqrt() * found + (1 - now).sqrt() * z
            z = then.sqrt() * x_0 + (1 - then).sqrt() * ε
        return z

    def distance(self, z: Tensor, t: Any, c: Tensor, wanted: Tensor) -> Tensor:
        return ((self.unet(z, t, c).sample - wanted.detach()) ** 2).mean()

    def fade(self) -> Callable[[], Losses]:
        (z, t), (z_r, t_r) = self.noised("forget"), self.noised("retain")
        forget, retain = self.batch["forget"], self.batch["retain"]
        wanted, kept = self.base(z, t, forget["surrogate"]).sample, self.base(z_r, t_r, retain["prompt"]).sample
        return lambda: {
            "forget": self.distance(z, t, forget["prompt"], wanted),
            "retain": self.distance(z_r, t_r, retain["prompt"], kept),
        }

    def ca(self, teacher: nn.Module, prior: bool = True) -> Callable[[], Losses]:
        z, t = self.noised("anchor")
        anchor = self.batch["anchor"]
        wanted = teacher(z, t, anchor["surrogate"]).sample
        return lambda: {
            "forget": self.distance(z, t, anchor["prompt"], wanted),
            **({"prior": self.denoising("anchor", "surrogate")} if prior else {}),
        }

    def pseudo(self) -> Callable[[], Losses]:
        """SalUn's, EraseDiff's, UnlearnCanvas's ScissorHands': the live model under the surrogate caption, detached,
        and plain denoising."""
        z, t = self.noised("forget")
        forget = self.batch["forget"]
        wanted = self.unet(z, t, forget["surrogate"]).sample
        return lambda: {"forget": self.distance(z, t, forget["prompt"], wanted), "retain": self.denoising("retain")}

    def esd(self, sampler: nn.Module, centred_on_empty: bool, η: float) -> Callable[[], Losses]:
        c = self.batch["forget"]["prompt"]
        z, t = self.sampled(sampler, c)
        given, empty = self.base(z, t, c).sample, self.base(z, t, self.empty.expand_as(c)).sample
        wanted = (empty if centred_on_empty else given) - η * (given - empty)
        return lambda: {"forget": self.distance(z, t, c, wanted)}

    def spm(self, released: bool = False) -> Callable[[], Losses]:
        """As released, two of four anchors are the empty prompt."""
        c = self.batch["forget"]["prompt"]
        z, t = self.sampled(self.unet, c, least=int(released))
        blank = [self.empty] * 2 if released else []
        others = torch.cat(blank + [self.anchor(c[:1]) for _ in range(4 - len(blank))])
        given, empty = self.base(z, t, c).sample, self.base(z, t, self.empty.expand_as(c)).sample
        same = z[:1].expand(4, -1, -1, -1)
        kept = self.base(same, t, others).sample
        return lambda: {
            "forget": self.distance(z, t, c, empty - 1.0 * (given - empty)),
            "retain": self.distance(same, t, others, kept),
        }

    def anchor(self, c: Tensor) -> Tensor:
        """A Gaussian embedding of 0.8 to 1.2 times the norm of c (1, L, D), drawn as the method draws."""
        while True:
            noise = torch.randn_like(c)
            drawn = noise * (c.square().sum() / noise.square().sum()).sqrt() * (0.8 + 0.4 * torch.rand(1))
            cosine = (drawn * c).sum() / (drawn.square().sum() * c.square().sum()).sqrt()
            if torch.rand(1) < 1 - cosine:
                return drawn

    def lacu(self) -> Callable[[], Losses]:
        """On the pools that `prepare` made, drawn as the method draws; θ_before is the untouched model's."""
        torch.manual_seed(7)
        drawn = [torch.randint(0, self.method.pool, (len(self.batch["forget"]["t"]),)) for _ in range(2)]
        pools = {"forget": self.method.forget, "retain": self.method.retain}
        terms = {}
        for (side, pool), rows in zip(pools.items(), drawn, strict=True):
            example: Any = self.batch[side]  # type: ignore[literal-required]
            alpha = self.alphas[example["t"]].to(pool[0])[:, None, None, None]
            z = alpha.sqrt() * pool[0][rows] + (1 - alpha).sqrt() * example["noise"]
            wanted = self.base(z, example["t"], pool[-1][rows]).sample
            terms[side] = (z, example["t"], pool[1][rows], wanted)
        before = dict(self.base.named_parameters())

        def loss() -> Losses:
            live = {n: p for n, p in self.unet.named_parameters() if ".attn1." in n or ".attn2." in n}
            moved = sum(((p - before[n]) ** 2).sum() for n, p in live.items() if n.endswith("weight"))
            return {**{side: self.distance(*term) for side, term in terms.items()}, "stay": moved}

        return loss

    def shs(self) -> Callable[[], Losses]:
        """The authors': loss_r − λ loss_u, both the plain loss of training."""
        return lambda: {"forget": -self.denoising("forget"), "retain": self.denoising("retain")}

    def fmn(self, end: bool) -> Callable[[], Losses]:
        z, t = self.noised("forget")
        forget = self.batch["forget"]
        tokens = forget["concept"].clone()
        for row, place in enumerate(forget["end"].tolist() if end else []):
            tokens[row, place:] = True

        def loss() -> Losses:
            with seen_by_cross_attention(self.unet) as seen:
                self.unet(z, t, forget["prompt"])
            total = torch.zeros((), dtype=z.dtype)
            for layer, hidden, context in seen:
                q, k = (
                    x.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
                    for x in (layer.to_q(hidden), layer.to_k(context))
                )
                a = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1)  # (B, heads, h·w, L)
                for row, places in enumerate(tokens):
                    total = total + (a[row, :, :, places] ** 2).sum()
            return {"forget": (total / len(tokens)).sqrt()}

        return loss


@contextmanager
def seen_by_cross_attention(unet: nn.Module) -> Iterator[list[tuple[Any, Tensor, Tensor]]]:
    """Each attn2 layer with its hidden states and its context."""
    seen: list[tuple[Any, Tensor, Tensor]] = []

    def hook(layer: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        seen.append((layer, args[0], given["encoder_hidden_states"]))

    handles = [
        m.register_forward_pre_hook(hook, with_kwargs=True) for n, m in unet.named_modules() if n.endswith("attn2")
    ]
    yield seen
    for handle in handles:
        handle.remove()


SAMPLED = f"method.sampling_steps={STEPS}"
# overrides -> the formula, the teacher's passes (None: STEPS of the sampler among them) and all passes but the
# sampler's
CASES: dict[tuple[str, ...], tuple[Callable[[Formula], Callable[[], Losses]], int | None, int]] = {
    ("fade",): (Formula.fade, 1, 2),
    ("spare",): (Formula.fade, 1, 2),
    ("ca",): (lambda f: f.ca(f.base), 1, 3),
    ("ca", "method.prior=false"): (lambda f: f.ca(f.base, False), 1, 2),
    ("ca", "method.variant=as_released"): (lambda f: f.ca(f.unet), 0, 3),
    ("salun",): (Formula.pseudo, 0, 3),
    ("ediff",): (Formula.pseudo, 0, 3),
    ("esd", SAMPLED): (lambda f: f.esd(f.unet, True, 1.0), 2, 3),
    ("esd", SAMPLED, "method.variant=as_released"): (lambda f: f.esd(f.base, False, 2.0), None, 3),
    ("spm", SAMPLED): (Formula.spm, 3, 5),
    ("spm", SAMPLED, "method.variant=as_released"): (lambda f: f.spm(True), 3, 5),
    ("lacu", "method.pool=8", "method.sampling_steps=2", "method.mapping_samples=2", "method.related_samples=2"): (
        Formula.lacu,
        1,
        2,
    ),
    ("shs",): (Formula.pseudo, 0, 3),
    ("shs", "method.variant=as_released"): (Formula.shs, 0, 2),
    ("fmn",): (lambda f: f.fmn(True), 0, 1),
    ("fmn", "method.end=false"): (lambda f: f.fmn(False), 0, 1),
}
TRAINED = {key[0] for key in CASES}


def test_every_trained_method_has_a_formula() -> None:
    untrained = {name for name in METHODS if not instantiate(composed(f"method={name}").method).terms}
    assert set(METHODS) - untrained == TRAINED and untrained == {"uce", "seot"}


def exact(batch: Batch) -> Batch:
    return {
        side: {key: value.double() if value.is_floating_point() else value for key, value in example.items()}  # type: ignore
        for side, example in batch.items()
    }  # type: ignore[attr-defined]


def shipped_schedule() -> DDIMScheduler:
    """v-prediction, zero terminal SNR."""
    return DDIMScheduler.from_pretrained(ROOT / "fade" / "shipped" / "minicanvas" / "pipeline", subfolder="scheduler")


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_loss_gradient_and_passes(model: Diffusion, pairs: Pairs, case: tuple[str, ...], kind: str) -> None:
    """The loss is its formula; its gradient is the formula's finite difference, with what is detached held fixed; and a
    step takes the passes that methods.md gives. On a model of ε, and on one of v with the schedule of the shipped
    weights."""
    formula_of, teacher, passes = CASES[case]
    model.double()
    if kind == "v_prediction":
        model.pipe.scheduler = shipped_schedule()
        assert model.pipe.scheduler.alphas_cumprod[-1] < 1e-6
    assert model.pipe.scheduler.config.prediction_type == kind
    base = copy.deepcopy(model.unet).requires_grad_(False)
    config = composed(f"method={case[0]}", *case[1:])
    method, adapter = instantiate(config.method), instantiate(config.adapter, _convert_="all")(model)
    adapter_moved(adapter)
    method.prepare(model, adapter, pairs)
    adapter.teacher_passes = 0  # LACU's pools and distances are the teacher's too
    torch.manual_seed(2)
    batch = exact(with_timesteps(pairs.draw(torch.Generator().manual_seed(1)), Uniform(), torch.zeros(0), 1000))
    formula = formula_of(Formula(model, base, batch, method))
    counted = []
    handle = model.unet.register_forward_pre_hook(lambda *_: counted.append(1))
    torch.manual_seed(7)
    losses = method.losses(model, adapter, batch)
    handle.remove()
    wanted = formula()
    assert losses.keys() == wanted.keys() == set(method.terms)
    for name in losses:
        assert abs(wanted[name]) > 1e-6
        torch.testing.assert_close(losses[name], wanted[name], rtol=1e-6, atol=1e-12)
    torch.manual_seed(7)
    least = int(case[0] == "spm" and len(case) == 3)
    stop = int(torch.randint(least, STEPS, (1,))) if SAMPLED in case else 0
    assert SAMPLED not in case or stop >= 1  # the sampler is at work in this test
    assert adapter.teacher_passes == (2 + stop if teacher is None else teacher)
    assert len(counted) == passes + stop
    check_gradients(adapter.parameters(), losses, formula)


def adapter_moved(adapter: Adapter) -> None:
    """Away from zero change, where a LoRA's gradient is special and student and teacher agree."""
    if isinstance(adapter, Lora):
        return shake(adapter)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))


def check_gradients(
    parameters: list[nn.Parameter], losses: Losses, formula: Callable[[], Losses], h: float = 1e-5
) -> None:
    """⟨∇L, v⟩ is (L(θ + hv) − L(θ − hv)) / 2h of the formula, v random over all parameters, for every term."""
    generator = torch.Generator().manual_seed(9)
    v = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    slopes = {}
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        slopes[name] = sum((g * d).sum() for g, d in zip(gradients, v, strict=True) if g is not None)
    ends = []
    with torch.no_grad():
        for move in (h, -2 * h):
            for p, d in zip(parameters, v, strict=True):
                p.add_(move * d)
            ends.append(formula())
    for name, slope in slopes.items():
        difference = (ends[0][name] - ends[1][name]) / (2 * h)
        assert abs(difference) > 1e-8
        torch.testing.assert_close(slope, difference, rtol=1e-4, atol=1e-8)


def parameters_of(model: Diffusion, chosen: Callable[[str, nn.Module], bool]) -> set[str]:
    """The names of all parameters of the chosen modules themselves."""
    return {
        f"{name}.{key}"
        for name, module in model.unet.named_modules()
        if chosen(name, module)
        for key, _ in module.named_parameters(recurse=False)
    }


TRAINS: dict[str, Callable[[str, nn.Module], bool]] = {
    **dict.fromkeys(("esd", "ediff", "fmn"), lambda name, _: ".attn2." in name),  # ESD-x: all of cross-attention
    **dict.fromkeys(("ca", "uce"), lambda name, _: name.endswith(("attn2.to_k", "attn2.to_v"))),
    **dict.fromkeys(("salun", "shs"), lambda *_: True),
}


@pytest.mark.parametrize("name", TRAINS)
def test_a_patch_trains_the_weights_of_its_paper(model: Diffusion, name: str) -> None:
    wanted = parameters_of(model, TRAINS[name])
    instantiate(composed(f"method={name}").adapter, _convert_="all")(model)
    assert {n for n, p in model.unet.named_parameters() if p.requires_grad} == wanted


@pytest.mark.parametrize(("name", "rank", "within"), [("fade", 8, "to_"), ("spare", 8, "to_"), ("spm", 1, "")])
def test_an_adapter_trains_the_layers_of_its_paper(model: Diffusion, name: str, rank: int, within: str) -> None:
    """FADE: every attention projection. SPM: every linear layer of the transformer blocks."""
    layers = [
        m
        for n, m in model.unet.named_modules()
        if ".transformer_blocks." in n and within in n and isinstance(m, nn.Linear)
    ]
    wanted = sum(rank * (m.in_features + m.out_features) for m in layers)
    adapter = instantiate(composed(f"method={name}").adapter, _convert_="all")(model)
    assert sum(p.numel() for p in adapter.parameters()) == wanted > 0
    assert {id(p) for p in model.unet.parameters() if p.requires_grad} == {id(p) for p in adapter.parameters()}


# from yaml to file and back: a new method is tested by existing


def unlearner_of(config: DictConfig, model: Diffusion, adapter: Adapter, pairs: Pairs, file: Path) -> Unlearner:
    return Unlearner(
        model,
        adapter,
        pairs,
        instantiate(config.method),
        instantiate(config.sparsity),
        dict(config.weights),
        instantiate(config.optimizer.build),
        instantiate(config.timesteps),
        file,
        **config.optimizer.schedule,
        seed=config.seed,
    )


def trained(
    config: DictConfig, model: Diffusion, adapter: Adapter, pairs: Pairs, folder: Path, every: int = 3
) -> Unlearner:
    unlearner = unlearner_of(config, model, adapter, pairs, folder / "saliency.safetensors")
    fit(unlearner, quiet(config.trainer.max_steps, 1), folder, every, [])
    return unlearner


def config_of(name: str, steps: int, *overrides: str) -> DictConfig:
    """A method as run.py composes it, with a large rate and few steps; those without a loss have none."""
    config = composed(f"method={name}", *overrides)
    config.optimizer.build.lr = 1e-2
    config.trainer.max_steps = steps if instantiate(config.method).terms else 0
    if "sampling_steps" in config.method:
        config.method.sampling_steps = STEPS
    if "points" in config.timesteps:
        config.timesteps.points = 4
    return config


@torch.no_grad()
def answer(model: Diffusion) -> Tensor:
    """What the model says to a prompt that names the concept."""
    z, t, c = inputs(model)
    return model.predict(z, t, c)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_from_yaml_to_file_and_back(model: Diffusion, pairs: Pairs, tmp_path: Path, name: str) -> None:
    config = config_of(name, 2)
    before, untouched = {k: v.clone() for k, v in model.unet.state_dict().items()}, answer(model)
    adapter = instantiate(config.adapter, _convert_="all")(model)
    method: Method = instantiate(config.method)
    method.check(
        adapter.kind, instantiate(config.sparsity).kind, config.trainer.max_steps, instantiate(config.timesteps).kind
    )
    for kind in {"lora", "patch", "matrix", "text"} - set(method.kinds):
        with pytest.raises(BadInput, match="choose another adapter"):
            method.check(kind, "dense", config.trainer.max_steps)
    unlearner = trained(config, model, adapter, pairs, tmp_path)
    assert all(
        unlearner.trainer.callback_metrics[f"loss/{term}"].isfinite()
        for term in (*method.terms, "total")
        if method.terms
    )
    assert unlearner.trainer.global_step == config.trainer.max_steps
    changed = answer(model)
    assert changed.isfinite().all() and not torch.equal(changed, untouched)
    check_only_masked_weights_moved(model, adapter, before)
    Stored.of(adapter, {}).write(tmp_path / "adapter")
    identity = adapter.sha256()
    adapter.detach()
    after = model.unet.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)
    assert torch.equal(answer(model), untouched) and not any(p.requires_grad for p in model.unet.parameters())
    again = Stored.read(tmp_path / "adapter").attach(model)
    assert again.sha256() == identity and (answer(model) - changed).abs().max() == 0
    with again.off():
        assert torch.equal(answer(model), untouched)


def check_only_masked_weights_moved(model: Diffusion, adapter: Adapter, before: dict[str, Tensor]) -> None:
    """In the U-Net itself: a LoRA and an edit of the text move nothing; a patch moves what its masks keep."""
    masks = adapter.masks() if isinstance(adapter, Patch) else {}
    weights = {n.replace(".base_layer", ""): w for n, w in model.unet.named_parameters() if ".lora_" not in n}
    assert weights.keys() == before.keys()
    moved = 0
    for name, weight in weights.items():
        kept = masks.get(name, torch.zeros_like(weight, dtype=torch.bool))
        assert torch.equal(weight[~kept], before[name][~kept]), name
        moved += bool((weight[kept] != before[name][kept]).any())
    assert moved >= 0.8 * len(masks)  # a bias before a normalisation has no gradient, a key's bias none either


def state_of(adapter: Adapter, unlearner: Unlearner) -> tuple[str, int, int]:
    return adapter.sha256(), adapter.teacher_passes, unlearner.trainer.global_step


@pytest.mark.parametrize("dies_at", [2, 5])  # before the first checkpoint, and after it
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("salun", ["adapter.targets=['attn']"]),
        ("shs", ["sparsity=weight", "adapter.targets=['attn']", "method.cone=true"]),
        ("ediff", ["method.passes=1", "method.epoch=3"]),
        ("spare", []),
    ],
)
def test_killed_and_resumed_is_undisturbed(
    model: Diffusion,
    pairs: Pairs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    overrides: list[str],
    dies_at: int,
) -> None:
    def train(folder: str, seed: int) -> tuple[str, int, int]:
        L.seed_everything(seed, verbose=False)
        adapter = instantiate(config.adapter, _convert_="all")(model)
        try:
            return state_of(adapter, trained(config, model, adapter, pairs, tmp_path / folder))
        finally:
            adapter.detach()

    config = config_of(name, 6, *overrides)
    # whatever state the second process starts in; but a LoRA's first values are drawn from the global seed, which
    # run.py sets
    resumed = 4 if config.adapter._target_.endswith("Lora.attach") and dies_at < 3 else 99
    undisturbed = train("whole", 4)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Unlearner, "training_step", dying(dies_at))
        train("killed", 4)
    assert (tmp_path / "killed" / "last.ckpt").is_file() == (dies_at > 3)
    assert train("killed", resumed) == undisturbed


# SalUn, EraseDiff, ScissorHands


def test_saluns_saliency_is_the_absolute_sum_of_guided_gradients(model: Diffusion, pairs: Pairs) -> None:
    drawn = [pairs.draw(torch.Generator().manual_seed(i)) for i in range(2)]
    patch = Patch.attach(model, [r"attn2\.to_k\.weight"])
    method = SalUn(guidance=7.5)
    method.prepare(model, patch, pairs)
    torch.manual_seed(1)
    found = method.locate(model, patch, drawn)
    torch.manual_seed(1)
    name, weight = next(iter(patch.weights().items()))
    wanted = torch.zeros_like(weight)
    for batch in drawn:
        z, c = batch["forget"]["latents"], batch["forget"]["prompt"]
        t, noise = torch.randint(0, 1000, (2,)), torch.randn_like(z)
        alpha = model.pipe.scheduler.alphas_cumprod[t][:, None, None, None]
        z_t = alpha.sqrt() * z + (1 - alpha).sqrt() * noise
        guided = 8.5 * model.unet(z_t, t, c).sample - 7.5 * model.unet(z_t, t, model.embed(["", ""])).sample
        wanted += torch.autograd.grad(((noise - guided) ** 2).mean(), weight)[0]
    torch.testing.assert_close(found[name], wanted.abs())
    assert (wanted < 0).any()


def random_gradients(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    one, other = ([torch.randn(shape, generator=generator).double() for shape in ((3, 4), (5,))] for _ in range(2))
    return one, other


def flat(gradients: list[Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("seed", range(4))
def test_erasediffs_rate_is_the_papers(seed: int) -> None:
    forget, retain = random_gradients(seed)
    found = flat(EraseDiff(step=0.1).combine({"forget": forget, "retain": retain}))
    f, r = flat(forget), flat(retain)
    cosine = torch.nn.functional.cosine_similarity(f, r, dim=0)
    torch.testing.assert_close(found, r + max(0.0, 0.1 - float(cosine)) * f)


def stepped(combine: Callable[[dict[str, list[Tensor]]], list[Tensor]], seed: int) -> tuple[Tensor, Tensor]:
    """What a method makes of random gradients, and their sum."""
    forget, retain = random_gradients(seed)
    return flat(combine({"forget": forget, "retain": retain})), flat(forget) + flat(retain)


@pytest.mark.parametrize("seed", range(6))
def test_scissorhands_cone_is_gems_quadratic_program(seed: int) -> None:
    """min ½ v² (‖g_o‖² + 0.001) + v ⟨g, g_o⟩ over v ≥ 0.5, and g + v g_o is the step, where ⟨g, g_o⟩ < 0; every tenth
    step.
    """
    method = ScissorHands(cone=True)
    method.places, memory = [1], torch.randn(5, generator=torch.Generator().manual_seed(seed + 50)).double()
    method.load_state({"0": memory})  # of the second weight alone
    method.before_step(20, Any, Any)  # type: ignore[arg-type]
    step, total = stepped(method.combine, seed)
    g_o = torch.cat([torch.zeros(12), memory])
    if total @ g_o >= 0:
        return torch.testing.assert_close(step, total)
    tried = torch.linspace(0.5, 20, 40_001, dtype=torch.float64)
    v = tried[(0.5 * tried**2 * (g_o @ g_o + 1e-3) + tried * (total @ g_o)).argmin()]
    torch.testing.assert_close(step, total + v * g_o, atol=2e-3, rtol=0)
    method.before_step(21, Any, Any)  # type: ignore[arg-type]
    torch.testing.assert_close(stepped(method.combine, seed)[0], total)


def test_scissorhands_cone_bound_and_unbound_were_drawn() -> None:
    along = []
    for seed in range(6):
        memory = torch.randn(5, generator=torch.Generator().manual_seed(seed + 50)).double()
        along.append(
            float((flat(random_gradients(seed)[0]) + flat(random_gradients(seed)[1]))[12:] @ memory / (memory @ memory))
        )
    assert any(a > 0 for a in along) and any(-0.5 < a < 0 for a in along) and any(a < -0.5 for a in along)


@pytest.mark.parametrize("overrides", [[], ["method.variant=as_released"]], ids=["unlearncanvas", "as_released"])
def test_scissorhands_step_is_driven_by_both_terms_and_their_weights(
    model: Diffusion, pairs: Pairs, tmp_path: Path, overrides: list[str]
) -> None:
    """The step goes along ∇L_r + 0.1 ∇L_f, and as released, L_f is what is climbed."""
    config = config_of("shs", 1, "adapter.targets=['attn2','attn1']", *overrides)
    adapter = instantiate(config.adapter, _convert_="all")(model)
    unlearner = unlearner_of(config, model, adapter, pairs, tmp_path / "none")
    batch = with_timesteps(pairs.draw(torch.Generator().manual_seed(1)), Uniform(), torch.zeros(0), 1000)
    wanted = Formula(model, model.unet, batch).shs() if overrides else Formula(model, model.unet, batch).pseudo()
    losses = wanted()
    total = losses["retain"] + 0.1 * losses["forget"]
    slopes = torch.autograd.grad(total, adapter.parameters(), allow_unused=True)
    unlearner._objective(unlearner.method.losses(model, adapter, batch), unlearner.weights).backward()
    for parameter, slope in zip(adapter.parameters(), slopes, strict=True):
        torch.testing.assert_close(parameter.grad, slope)
    assert all(g.norm() > 0 for g in torch.autograd.grad(wanted()["forget"], adapter.parameters()[:1]))


def test_the_loop_steps_along_what_combine_gives(model: Diffusion, pairs: Pairs, tmp_path: Path) -> None:
    config = config_of("ediff", 1, "method.step=0.1")
    adapter = instantiate(config.adapter, _convert_="all")(model)
    unlearner = unlearner_of(config, model, adapter, pairs, tmp_path / "none")
    batch = with_timesteps(pairs.draw(torch.Generator().manual_seed(1)), Uniform(), torch.zeros(0), 1000)
    losses = unlearner.method.losses(model, adapter, batch)
    taken = {
        name: list(torch.autograd.grad(weight * losses[name], adapter.parameters(), retain_graph=True))
        for name, weight in (("forget", 0.5), ("retain", 2.0))
    }
    scalar = unlearner._objective(losses, {"forget": 0.5, "retain": 2.0})
    scalar.backward()
    torch.testing.assert_close(scalar, 0.5 * losses["forget"] + 2 * losses["retain"])
    for parameter, wanted in zip(adapter.parameters(), unlearner.method.combine(taken), strict=True):
        torch.testing.assert_close(parameter.grad, wanted)


@pytest.mark.parametrize(
    ("variant", "cut", "batches", "w", "where"),
    [
        ("unlearncanvas", 0.2, 1, 0.0, r"attn2\."),
        ("as_released", 0.8, 10, 7.5, r"up_blocks\.1\.attentions\.1\..*attn1\."),
    ],
)
def test_scissorhands_redraws_the_most_sensitive_weights(
    model: Diffusion, pairs: Pairs, variant: str, cut: float, batches: int, w: float, where: str
) -> None:
    """|θ ⊙ Σ |∂L_f/∂θ|| over the whole U-Net, the gradient by hand; then biases are 0, and weights uniform within
    1/√fan_in (as released) or normal with a deviation of 0.02 (UnlearnCanvas)."""
    adapter = Patch.attach(model, ["."])
    method = ScissorHands(variant, cut=cut)
    method.prepare(model, adapter, pairs)
    before = {name: weight.detach().clone() for name, weight in adapter.weights().items()}
    torch.manual_seed(0)
    drawn = torch.Generator().manual_seed(int(torch.randint(2**31, (1,))))
    found = {name: torch.zeros_like(weight) for name, weight in before.items()}
    for _ in range(batches):
        example = pairs.draw(drawn)["forget"]
        z, t = example["latents"], torch.randint(0, 1000, (2,))
        noise, alpha = torch.randn_like(z), model.pipe.scheduler.alphas_cumprod[t][:, None, None, None]
        z_t = alpha.sqrt() * z + (1 - alpha).sqrt() * noise
        given = model.unet(z_t, t, example["prompt"]).sample
        guided = (1 + w) * given - w * model.unet(z_t, t, model.embed(["", ""])).sample
        gradients = torch.autograd.grad(((noise - guided) ** 2).mean(), adapter.parameters())
        for name, gradient in zip(found, gradients, strict=True):
            found[name] += gradient.abs()
    score = {name: (found[name] * before[name]).abs() for name in found}
    ranked = torch.cat([s.flatten() for s in score.values()]).sort(descending=True).values
    least = ranked[round(cut * len(ranked)) - 1]
    torch.manual_seed(0)
    method.edit(model, adapter, pairs)
    fresh = []
    for name, weight in adapter.weights().items():
        changed = weight.detach() != before[name]
        if not re.search(where, name):
            assert not changed.any(), name
            continue
        assert (score[name][changed] >= least * 0.9999).all() and (score[name][~changed] <= least * 1.0001).all()
        if name.endswith("bias"):
            assert (weight[changed] == 0).all()
        else:
            fresh.append(weight.detach()[changed] * (math.sqrt(weight.shape[1]) if variant == "as_released" else 50))
    values = torch.cat(fresh)
    assert len(values) > 50 and abs(values.mean()) < 0.2
    if variant == "as_released":  # uniform within ±1, which has the deviation 0.577
        assert values.abs().max() <= 1 and 0.5 < values.std() < 0.65
    else:
        assert 0.9 < values.std() < 1.1 and values.abs().max() > 2


def test_scissorhands_remembers_the_cut_networks_ascent(model: Diffusion, pairs: Pairs) -> None:
    """g_o is −∇L_denoise(forget) after the cut, over cross-attention alone; with another seed the redraw is another."""
    adapter = Patch.attach(model, ["attn"])
    method = ScissorHands(cone=True, cut=0.2)
    method.prepare(model, adapter, pairs)
    method.edit(model, adapter, pairs)
    memory = torch.cat([m.flatten() for m in method.memory])
    crossed = [weight for name, weight in adapter.weights().items() if ".attn2." in name]
    assert len(memory) == sum(weight.numel() for weight in crossed)
    example = {side: torch.cat([pairs._example("forget", torch.arange(16))[side]]) for side in ("latents", "prompt")}  # type: ignore[literal-required]
    torch.manual_seed(3)
    slopes = [torch.zeros(())]
    for _ in range(8):  # of t and noise that the method did not draw: the mean of many points the same way
        t, noise = torch.randint(0, 1000, (16,)), torch.randn_like(example["latents"])
        alpha = model.pipe.scheduler.alphas_cumprod[t][:, None, None, None]
        z_t = alpha.sqrt() * example["latents"] + (1 - alpha).sqrt() * noise
        loss = ((model.unet(z_t, t, example["prompt"]).sample - noise) ** 2).mean()
        slopes.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, crossed)]))
    mean = torch.stack(slopes[1:]).mean(0)
    assert torch.nn.functional.cosine_similarity(memory, mean, dim=0) < -0.15
    once = [weight.detach().clone() for weight in crossed]
    method.edit(model, adapter, pairs)
    assert any((weight != other).any() for weight, other in zip(crossed, once, strict=True))


def test_scissorhands_needs_weights_to_redraw(model: Diffusion, pairs: Pairs) -> None:
    adapter = Patch.attach(model, [r"attn2\."])
    with pytest.raises(BadInput, match=r"method\.redraw"):
        ScissorHands("as_released").suits(model, adapter, pairs)
    ScissorHands("as_released", redraw=["attn2"]).suits(model, adapter, pairs)


def test_erasediffs_inner_passes_share_the_optimizer(model: Diffusion, pairs: Pairs, tmp_path: Path) -> None:
    """By hand, with one AdamW: K = 2 passes of two steps on L_f alone, θ put back after each, an outer pass between
    them that is thrown away; then the two steps that stay. Twice."""
    config = config_of("ediff", 4, "method.passes=2", "method.epoch=2")
    config.optimizer.schedule.cosine, config.optimizer.schedule.warmup = False, 0
    adapter = instantiate(config.adapter, _convert_="all")(model)
    unlearner = unlearner_of(config, model, adapter, pairs, tmp_path / "none")
    start = [p.detach().clone() for p in adapter.parameters()]
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2, weight_decay=0.0)

    def step(number: int, further: int, retain: float, forget: float) -> None:
        losses = Formula(model, model.unet, unlearner._drawn(number, further)).pseudo()()
        optimizer.zero_grad()
        (retain * losses["retain"] + forget * losses["forget"]).backward()
        optimizer.step()

    def put_back(values: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(adapter.parameters(), values, strict=True):
                parameter.copy_(value)

    for first in (0, 2):
        before = [p.detach().clone() for p in adapter.parameters()]
        for further in (1, 2):
            step(first, further, 0.0, 1.0)
        put_back(before)
        for further in (3, 4):
            step(first, further, 1.0, 0.1)
        for further in (5, 6):
            step(first, further, 0.0, 1.0)
        put_back(before)
        for number in (first, first + 1):
            step(number, 0, 1.0, 0.1)
    wanted = [p.detach().clone() for p in adapter.parameters()]
    put_back(start)
    adapter.detach()
    ends = []
    for passes in (2, 0):
        config.method.passes = passes
        adapter = instantiate(config.adapter, _convert_="all")(model)
        assert trained(config, model, adapter, pairs, tmp_path / str(passes)).trainer.global_step == 4
        ends.append([p.detach().clone() for p in adapter.parameters()])
        adapter.detach()
    for end, value in zip(ends[0], wanted, strict=True):
        torch.testing.assert_close(end, value, rtol=1e-4, atol=1e-5)
    apart = max(float((a - b).abs().max()) for a, b in zip(*ends, strict=True))
    assert apart > 5e-3  # half of one step: the moments are not those of one level


def test_further_steps_keep_to_the_masks(model: Diffusion, pairs: Pairs, tmp_path: Path) -> None:
    """Weight decay moves what a mask holds, until it is put back: in the inner passes too, whose weights the outer ones
    between them start from."""
    config = config_of(
        "ediff", 1, "method.passes=2", "method.epoch=1", "sparsity=weight", "optimizer.build.weight_decay=0.5"
    )
    adapter = instantiate(config.adapter, _convert_="all")(model)
    before = [p.detach().clone() for p in adapter.parameters()]
    seen: list[bool] = []

    def look(*_: Any) -> None:
        held = [~mask for mask in adapter.masks().values()]
        seen.append(all(torch.equal(p[h], b[h]) for p, b, h in zip(adapter.parameters(), before, held, strict=True)))

    handle = model.unet.register_forward_pre_hook(look)
    trained(config, model, adapter, pairs, tmp_path)
    handle.remove()
    look()  # after the last step, which is the loop's own
    assert not all(mask.all() for mask in adapter.masks().values())
    assert len(seen) > 12 and all(seen)


# FADE's stage one


@pytest.mark.parametrize("kind", ["forget", "ratio"])
def test_fades_saliency_is_of_the_forget_images(model: Diffusion, pairs: Pairs, kind: str) -> None:
    drawn = [pairs.draw(torch.Generator().manual_seed(i)) for i in range(2)]
    patch = Patch.attach(model, [r"attn2\.to_k\.weight"])
    weights = list(patch.weights().values())

    def by_hand(side: str) -> list[Tensor]:
        total = [torch.zeros_like(weight) for weight in weights]
        for batch in drawn:
            example: Any = batch[side]  # type: ignore[literal-required]
            z, t = example["latents"], torch.randint(0, 1000, (2,))
            noise, alpha = torch.randn_like(z), model.pipe.scheduler.alphas_cumprod[t][:, None, None, None]
            given = model.unet(alpha.sqrt() * z + (1 - alpha).sqrt() * noise, t, example["prompt"]).sample
            slopes = torch.autograd.grad(((given - noise) ** 2).mean(), weights)
            total = [sum_so_far + slope.abs() for sum_so_far, slope in zip(total, slopes, strict=True)]
        return total

    torch.manual_seed(1)
    found = Fade(kind).locate(model, patch, drawn)
    torch.manual_seed(1)
    wanted = by_hand("forget")
    if kind == "ratio":
        wanted = [s / (r + r.mean()) for s, r in zip(wanted, by_hand("retain"), strict=True)]
    for score, value in zip(found.values(), wanted, strict=True):
        torch.testing.assert_close(score, value)


# LACU


@pytest.mark.parametrize(("latents", "others"), [("noise", 0), ("target", 2)])
def test_lacu_maps_to_the_nearest_concept_and_keeps_the_nearest_captions(
    model: Diffusion, pairs: Pairs, latents: str, others: int
) -> None:
    """Each distance by hand, over all captions of the request; the pools by DDIM without guidance."""
    adapter = Patch.attach(model, ["attn2"])
    method = Lacu(
        pool=9, sampling_steps=2, mapping_samples=4, related_samples=3, related=3, others=others, latents=latents
    )
    method.prepare(model, adapter, pairs)
    formula = Formula(model, model.unet, pairs.draw(torch.Generator()))
    cells = pairs.dataset.cells()
    asked = [cell for cell in cells if cell["style"] == "neon"]
    own = model.embed([pairs.dataset.caption(cell) for cell in asked])
    torch.manual_seed(0)

    def made(c: Tensor) -> Tensor:
        return formula.ddim(model.unet, torch.randn(9, 4, 8, 8), c, formula.times(2), 2, 1.0)

    rows = torch.randint(0, len(asked), (9,))
    of_target = made(own[rows])
    torch.testing.assert_close(method.forget[0], of_target, rtol=1e-4, atol=1e-4)
    assert torch.equal(method.forget[1], own[rows])
    assert len(asked) == 8  # more than either K: every caption is heard
    z = torch.randn(8, 4, 8, 8) if latents == "noise" else of_target[:8]
    generator = torch.Generator().manual_seed(0)
    t, noise = torch.randint(0, 1000, (8,), generator=generator), torch.randn(z.shape, generator=generator)
    alpha = formula.alphas[t][:, None, None, None]
    z_t = alpha.sqrt() * z + (1 - alpha).sqrt() * noise

    @torch.no_grad()
    def distance(captions: list[str]) -> float:
        c = model.embed(captions).expand(8, -1, -1)
        return float(((model.unet(z_t, t, own).sample - model.unet(z_t, t, c).sample) ** 2).mean())

    labels = {
        s: distance([pairs.dataset.caption({**c, "style": s}) for c in asked]) for s in pairs.dataset.domains["style"]
    }
    assert method.mapping == min((s for s in labels if s != "neon"), key=labels.__getitem__)
    assert torch.equal(
        method.forget[2], model.embed([pairs.dataset.caption({**c, "style": method.mapping}) for c in asked])[rows]
    )
    kept = [pairs.dataset.caption(cell) for cell in cells if cell["style"] != "neon"]
    order = sorted(kept, key=lambda caption: distance([caption]))
    far = [order[3:][i] for i in torch.randperm(len(order) - 3)[:others].tolist()]
    assert method.kept == order[:3] + far
    rows = torch.randint(0, 3 + others, (9,))
    assert torch.equal(method.retain[1], model.embed(method.kept)[rows])
    torch.testing.assert_close(method.retain[0], made(method.retain[1]), rtol=1e-4, atol=1e-4)


def test_lacu_forgets_below_600() -> None:
    drawn = instantiate(composed("method=lacu").timesteps).draw(torch.arange(1000), 1000, torch.zeros(0))
    assert (int(drawn.min()), int(drawn.max())) == (0, 600)


@pytest.mark.parametrize(
    ("variant", "wanted"),
    [
        # UnlearnCanvas, mu_scissorhands_shs/train-erase.py: sparsity 0.99, prune_num 1, shared_step, + alpha
        ("unlearncanvas", {"cut": 0.01, "batches": 1, "guidance": 0.0, "ascends": False, "combines": False}),
        # Scissorhands_ex, SD/shs_cls.py: sparsity 0.9, prune_num 10, (1 + 7.5) of the prompt - 7.5 of "", - lam
        ("as_released", {"cut": 0.1, "batches": 10, "guidance": 7.5, "ascends": True, "combines": False}),
    ],
)
def test_scissorhands_variants_are_what_was_released(variant: str, wanted: dict[str, Any]) -> None:
    method = ScissorHands(variant)
    assert {key: getattr(method, key) for key in wanted} == wanted


# UCE


def random_contexts() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(n, 12, generator=generator, dtype=torch.float64) for n in (7, 3, 3, 5))  # w, c, g, p


def test_uces_closed_form_is_the_papers_sum() -> None:
    w, c, g, p = random_contexts()
    wanted, gram = 0.5 * w, 0.5 * torch.eye(12, dtype=w.dtype)
    for one, guide in zip(c, g, strict=True):
        wanted = wanted + 2.0 * torch.outer(w @ guide, one)
        gram = gram + 2.0 * torch.outer(one, one)
    for one in p:
        wanted = wanted + 3.0 * torch.outer(w @ one, one)
        gram = gram + 3.0 * torch.outer(one, one)
    torch.testing.assert_close(w + w @ solve(c, g, p, 2.0, 3.0, 0.5), wanted @ torch.inverse(gram))


def test_uce_is_the_minimum_of_its_objective_and_keeps_what_it_preserves() -> None:
    w, c, g, p = random_contexts()
    found = (w + w @ solve(c, g, p, 2.0, 3.0, 0.5)).requires_grad_()
    loss = (
        2 * (found @ c.T - w @ g.T).square().sum()
        + 3 * (found @ p.T - w @ p.T).square().sum()
        + 0.5 * (found - w).square().sum()
    )
    assert torch.autograd.grad(loss, found)[0].abs().max() < 1e-9
    sharp = w + w @ solve(c, g, p, 1.0, 1.0, 1e-9)  # without the ridge, both demands are met
    torch.testing.assert_close(sharp @ p.T, w @ p.T, atol=1e-6, rtol=0)
    torch.testing.assert_close(sharp @ c.T, w @ g.T, atol=1e-6, rtol=0)
    apart = c - c @ torch.linalg.pinv(p) @ p  # contexts orthogonal to what is preserved: the ridge costs nothing there
    torch.testing.assert_close(w @ solve(apart, g, p, 1.0, 1.0, 0.5) @ p.T, torch.zeros(7, 5, dtype=w.dtype))


@pytest.mark.parametrize("kind", [Matrix, Patch])
@pytest.mark.parametrize("tokens", ["last", "all"])
def test_uce_edits_every_key_and_value_by_its_captions(
    model: Diffusion, dataset: MiniCanvas, tmp_path: Path, tokens: str, kind: type[Patch]
) -> None:
    request = Request.of(dataset, "neon", "photo")
    pairs = Pairs(dataset, request, forget=16, retain=64, batch=2, cache=tmp_path, template="{object} {style}")
    patch = kind.attach(model, [r"attn2\.to_[kv]\.weight"])
    before = {name: weight.detach().double() for name, weight in patch.weights().items()}

    def count(text: str) -> int:
        return min(14, len(ids_of(model, text)))

    def rows(caption: str, places: list[int]) -> Tensor:
        return model.embed([caption])[0].double()[[count(caption)] if tokens == "last" else places]

    found, guides = [], []
    n, m = count("neon"), count("photo")
    assert n != m
    for own, other in pairs.captions("forget"):
        a = count(own[: own.index("neon")])  # [BOS] at 0, then a tokens, then the style's
        there = [i if i <= a else min(i, a + m) if i <= a + n else min(i + m - n, 15) for i in range(16)]
        assert own.endswith("neon") and other == own.replace("neon", "photo") and a + m <= 14
        found.append(rows(own, list(range(16))))
        guides.append(rows(other, there))
    c, g = torch.cat(found), torch.cat(guides)
    p = torch.cat([rows(own, list(range(16))) for own, _ in pairs.captions("retain")])
    gram = 0.3 * torch.eye(32, dtype=torch.float64) + 2 * c.T @ c + 0.5 * p.T @ p
    Uce(tokens, erase=2.0, preserve=0.5, ridge=0.3).edit(model, patch, pairs)
    for name, weight in patch.weights().items():
        assert not torch.equal(weight.double(), before[name])
        w = before[name]
        wanted = (0.3 * w + 2 * (w @ g.T) @ c + 0.5 * (w @ p.T) @ p) @ torch.inverse(gram)
        torch.testing.assert_close(weight.double(), wanted, atol=1e-5, rtol=1e-4)


def test_captions_of_unequal_length_are_aligned() -> None:
    same = aligned([7, 1, 8, 9], [7, 2, 8, 9], 8)
    assert same == list(range(8))
    longer = aligned([7, 1, 8, 9], [7, 2, 3, 8, 9], 8)  # [BOS] 7 1 8 9 [EOT] . . -> [BOS] 7 2 3 8 9 [EOT] .
    assert longer == [0, 1, 2, 4, 5, 6, 7, 7]
    shorter = aligned([7, 1, 2, 8, 9], [7, 3, 8, 9], 8)
    assert shorter == [0, 1, 2, 2, 3, 4, 5, 6]
    assert aligned([7, 7], [7], 5) == [0, 1, 1, 2, 3]
    assert aligned([5, 5], [5, 5], 4) == [0, 1, 2, 3]


# SPM


def gated(model: Diffusion, name: str, gate: Gate) -> Lora:
    adapter = Lora.attach(model, rank=1, alpha=1, targets=["to_q", "ff.net.2"], name=name)
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for factor in adapter.parameters():
            factor.copy_(torch.randn(factor.shape, generator=generator))
    adapter.gate = gate
    return adapter


ASKED = ["A cat image in neon style.", "A fish image in mosaic style.", "A neon fish"]


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_gates_add_up_exactly(model: Diffusion, power: float) -> None:
    """Σ_i γ_i^power B_i A_i, each prompt of a batch with its own γ: the same as a base whose weights were changed
    so.
    """
    model.double()
    base = copy.deepcopy(model.unet)
    adapters = [gated(model, "one", Gate(("neon",), power)), gated(model, "other", Gate(("mosaic", "fish"), power))]
    z, t, c = torch.randn(3, 4, 8, 8).double(), torch.tensor(500), model.embed(ASKED)
    γ = torch.stack([Gate(adapter.gate.prompts).strength(model, ASKED) for adapter in adapters])  # type: ignore[union-attr]
    assert γ[0, 0] == 1 and γ[1, 1] == 1 and 0 < γ[0, 1] < 1
    model.asked = ASKED
    with torch.no_grad():
        found = model.predict(torch.cat([z, z]), t, torch.cat([c, c]))  # as under guidance: the prompts twice over
        for i in range(3):
            changed = copy.deepcopy(base)
            for adapter, strength in zip(adapters, γ[:, i], strict=True):
                for name, layer in adapter.layers.items():
                    product = layer.lora_B[adapter.name].weight @ layer.lora_A[adapter.name].weight
                    changed.get_submodule(name).weight += strength**power * product  # type: ignore[operator]
            wanted = changed(z[i : i + 1], t, c[i : i + 1]).sample
            torch.testing.assert_close(found[[i]], wanted, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(found[[i + 3]], wanted, rtol=1e-9, atol=1e-9)


def test_a_gate_is_its_formula(model: Diffusion) -> None:
    gate = Gate(("neon sign", "cat"))
    assert gate.strength(model, ["neon sign", "cat", "a cat"]).tolist() == pytest.approx([1.0, 1.0, 1.0])
    prompt = "A fish image in mosaic style."
    cosines = [
        torch.nn.functional.cosine_similarity(*(model.embed([x]).flatten() for x in (own, prompt)), dim=0)
        for own in gate.prompts
    ]
    overlaps = []
    for own in gate.prompts:
        ids, theirs = (set(model.pipe.tokenizer(x).input_ids[1:-1]) for x in (own, prompt))
        overlaps.append(len(ids & theirs) / len(ids))
    torch.testing.assert_close(gate.strength(model, [prompt])[0], torch.tensor(max(*map(float, cosines), *overlaps)))


def test_spm_anchors_have_the_prompts_norm_and_keep_away_from_it(model: Diffusion) -> None:
    torch.manual_seed(0)
    prompt = model.embed(["A cat image in neon style."])
    found = anchored(prompt, 64)
    ratios = found.flatten(1).norm(dim=1) / prompt.norm()
    assert found.shape == (64, *prompt.shape[1:])
    assert ratios.min() >= 0.8 - 1e-5 and ratios.max() <= 1.2 + 1e-5 and ratios.std() > 0.08
    tiny = torch.tensor([[[1.0]]])  # in one dimension a Gaussian is ±: along the prompt it is always rejected
    assert (anchored(tiny, 16) < 0).all()


def test_spm_as_released_never_starts_from_pure_noise(model: Diffusion, pairs: Pairs) -> None:
    """Of two steps of the sampler it is stopped after one, where the paper's is stopped after none as well."""
    adapter, batch = Lora.attach(model, rank=1, alpha=1), pairs.draw(torch.Generator().manual_seed(1))
    counted: list[int] = []
    model.unet.register_forward_pre_hook(lambda *_: counted.append(1))
    for variant, passes, power in (("paper", {5, 6}, 1.0), ("as_released", {6}, 2.0)):
        method = Spm(variant, sampling_steps=2, anchors=2)
        method.prepare(model, adapter, pairs)
        assert adapter.gate is not None and adapter.gate.power == power
        seen = set()
        for seed in range(8):
            counted.clear()
            torch.manual_seed(seed)
            method.losses(model, adapter, batch)
            seen.add(len(counted))
        assert seen == passes


# SEOT


def test_seot_touches_only_prompts_that_name_the_concept(model: Diffusion) -> None:
    plain, empty = model.embed(ASKED), model.embed([""])
    edit = TextEdit.attach(model)
    edit.concept = "neon"
    edited = model.embed(ASKED)
    assert torch.equal(edited[1], plain[1]) and torch.equal(model.embed([""]), empty)
    for row in (0, 2):
        end = len(model.token_ids([ASKED[row]])[0]) + 1
        touched = sorted({*model.places(ASKED[row], "neon"), *range(end, 16)})
        others = [i for i in range(16) if i not in touched]
        assert torch.equal(edited[row, others], plain[row, others]) and len(others) > 2
        σ = torch.linalg.svdvals(plain[row, touched])
        shrunk = (σ * torch.exp(-σ)).sort(descending=True).values
        torch.testing.assert_close(torch.linalg.svdvals(edited[row, touched]), shrunk, atol=1e-4, rtol=1e-3)
    with edit.off():
        assert torch.equal(model.embed(ASKED), plain)
    with pytest.raises(BadInput, match="cannot be merged"):
        edit.merge()
    with edit.applied():
        assert torch.equal(model.embed(ASKED), edited)
    edit.detach()
    assert torch.equal(model.embed(ASKED), plain)


def test_suppression_keeps_the_singular_vectors() -> None:
    """σ̂ = σ e^{−βσ}: on rows that are orthogonal, of lengths σ, each row shrinks by itself."""
    v = torch.linalg.qr(torch.randn(9, 3, generator=torch.Generator().manual_seed(0)))[0].T
    σ = torch.tensor([3.0, 1.0, 0.2])
    torch.testing.assert_close(
        suppressed(σ[:, None] * v, 0.5), torch.tensor([0.66939, 0.60653, 0.18097])[:, None] * v, atol=1e-4, rtol=1e-4
    )


# Forget-Me-Not


def test_padding_that_is_no_end_of_text_is_not_attended_away(model: Diffusion, pairs: Pairs) -> None:
    """Stable Diffusion 2 pads with "!"."""
    batch = with_timesteps(pairs.draw(torch.Generator().manual_seed(1)), Uniform(), torch.zeros(0), 1000)
    patch, tokenizer = Patch.attach(model, [r"attn2\."]), model.pipe.tokenizer
    tokenizer.pad_token = next(
        t for t, i in tokenizer.get_vocab().items() if i not in (tokenizer.eos_token_id, tokenizer.bos_token_id)
    )
    method = ForgetMeNot()
    method.prepare(model, patch, pairs)
    with torch.no_grad(), model.attention() as maps:
        model.predict(noised(model, batch["forget"]), batch["forget"]["t"], batch["forget"]["prompt"])
        tokens = batch["forget"]["concept"].clone()
        for row, end in enumerate(batch["forget"]["end"]):
            tokens[row, end] = True
        wanted = sum((a[row][..., chosen] ** 2).sum() for a in maps for row, chosen in enumerate(tokens))
        found = method.losses(model, patch, batch)["forget"]
    torch.testing.assert_close(found, (wanted / len(tokens)).sqrt())


def test_places_are_all_mentions_that_the_encoder_sees(model: Diffusion, pairs: Pairs) -> None:
    assert model.places("neon cat neon", "neon") == [1, 3]
    assert model.places("A cat image in neon style.", "cat") == [2]
    assert model.places("A cat image", "neon") == model.places("", "neon") == model.places("neon", "") == []
    long = "neon " * 30
    assert model.places(long, "neon") == list(range(1, 15)) and len(model.token_ids([long])[0]) == 14
    assert Uce("last").contexts(model, [(long, long)])[0].shape == (1, 32)
    caption = pairs.dataset.caption({"style": "neon", "object": "cat"})
    row = [pairs.dataset.caption(cell) for cell in pairs.dataset.cells()].index(caption)
    ids = model.pipe.tokenizer(caption).input_ids
    assert ids[int(pairs.end[row])] == model.pipe.tokenizer.eos_token_id
    assert [ids[i] for i in pairs.concept[row].nonzero()[:, 0]] == ids_of(model, "neon")


def ids_of(model: Diffusion, text: str) -> list[int]:
    return model.pipe.tokenizer(text, add_special_tokens=False).input_ids


def test_attention_is_recorded_under_gradient_checkpointing(model: Diffusion, pairs: Pairs) -> None:
    patch = Patch.attach(model, [r"attn2\."])
    batch = with_timesteps(pairs.draw(torch.Generator().manual_seed(1)), Uniform(), torch.zeros(0), 1000)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.unet.enable_gradient_checkpointing()
        method = ForgetMeNot()
        method.prepare(model, patch, pairs)
        loss = method.losses(model, patch, batch)["forget"]
        gradients.append(torch.autograd.grad(loss, patch.parameters(), allow_unused=True))
    assert any(g is not None and g.any() for g in gradients[0])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


# bad input


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (partial(Esd, eta=-1), "method.eta"),
        (partial(Esd, sampling_steps=0), "method.sampling_steps"),
        (partial(Esd, guidance=-3), "method.guidance"),
        (partial(Esd, variant="new"), "method.variant"),
        (partial(Spm, sampling_steps=0), "method.sampling_steps"),
        (partial(Spm, variant="new"), "method.variant"),
        (partial(Spm, variant="as_released", sampling_steps=1), "method.sampling_steps"),
        (partial(Spm, anchors=0), "method.anchors"),
        (partial(Spm, gate_power=-1), "method.gate_power"),
        (partial(EraseDiff, step=-0.1), "method.step"),
        (partial(EraseDiff, step=math.nan), "method.step"),
        (partial(SalUn, guidance=-1), "method.guidance"),
        (partial(EraseDiff, passes=-1), "method.passes"),
        (partial(EraseDiff, epoch=0), "method.epoch"),
        (partial(ScissorHands, cut=0), "method.cut"),
        (partial(ScissorHands, cut=1), "method.cut"),
        (partial(ScissorHands, "paper"), "method.variant"),
        (partial(ScissorHands, batches=0), "method.batches"),
        (partial(Lacu, others=-1), "method.others"),
        (partial(Lacu, latents="x"), "method.latents"),
        (partial(Lacu, pool=0), "method.pool"),
        (partial(Lacu, mapped="x"), "method.mapped"),
        (partial(Uce, ridge=0), "method.ridge"),
        (partial(Uce, erase=-1), "method.erase"),
        (partial(Uce, preserve=-1), "method.preserve"),
        (partial(Uce, tokens="first"), "method.tokens"),
        (partial(ConceptAblation, variant="x"), "method.variant"),
        (partial(Fade, saliency="x"), "method.saliency"),
    ],
)
def test_impossible_options_are_refused(make: Callable[[], Method], option: str) -> None:
    with pytest.raises(BadInput, match=option.replace(".", r"\.")):
        make()


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        (Uce(), ("lora", "dense", 0), "kind lora"),
        (Uce(), ("patch", "dense", 5), "must be 0"),
        (Uce(), ("matrix", "weight", 0), "cannot be masked"),
        (Seot(), ("text", "neuron", 0), "nothing to mask"),
        (Seot(), ("patch", "dense", 0), "kind patch"),
        (Fade(), ("text", "dense", 5), "kind text"),
        (Fade(), ("lora", "dense", 0), "must be 1 or more"),
        (Fade(), ("lora", "dense", -1), "must be 0 or more"),
        (ScissorHands(), ("lora", "dense", 5), "kind lora"),
        (Spm(), ("patch", "dense", 5), "kind patch"),
        (Esd(), ("patch", "dense", 5, "targeted"), "draws no timesteps"),
        (Spm(), ("lora", "dense", 5, "window"), "draws no timesteps"),
    ],
)
def test_what_a_method_cannot_use_is_refused(method: Method, given: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        method.check(*given)


def test_what_does_not_go_together_is_refused_when_it_is_put_together(
    model: Diffusion, dataset: MiniCanvas, tmp_path: Path
) -> None:
    """Before images are encoded: the pairs are not prepared here."""
    request = Request.of(dataset, "neon", "photo")
    pairs = Pairs(dataset, request, forget=16, retain=64, batch=2, cache=tmp_path)

    def put(name: str, *overrides: str) -> None:
        config = config_of(name, 2, *overrides)
        adapter = instantiate(config.adapter, _convert_="all")(model)
        try:
            unlearner_of(config, model, adapter, pairs, tmp_path / "none")
        finally:
            adapter.detach()

    for name, overrides, message in (
        ("uce", ["adapter.targets=['attn1\\.to_k']"], "keys and values of cross-attention"),
        ("uce", ["adapter.targets=['.']"], "keys and values of cross-attention"),
        ("salun", ["sparsity=neuron"], "rows and columns of matrices"),
        ("esd", ["sparsity=random"], "rows and columns of matrices"),
        ("fade", ["weights.forget=-1"], r"weights\.forget"),
        ("fade", ["optimizer.schedule.locate_batch=0"], "locate_batch"),
    ):
        with pytest.raises(BadInput, match=message):
            put(name, *overrides)
    dataset.says = {"neon": ""}  # a concept of zero tokens
    for name in ("fmn", "seot"):
        with pytest.raises(BadInput, match="does not say"):
            put(name)
    with pytest.raises(BadInput, match=r"pairs\.batch is 0"):
        Pairs(dataset, request, forget=16, retain=64, batch=0, cache=tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=salun", "sparsity=neuron"], "rows and columns of matrices"),
        (["method=uce", "adapter=lora"], "kind lora"),
        (["method=uce", "trainer.max_steps=0", "adapter.targets=['.']"], "keys and values of cross-attention"),
        (["method=esd", "timesteps=window"], "draws no timesteps"),
        (["method=esd", "method.eta=-1"], "method.eta is -1"),
        (["method=ca", "optimizer.build.lr=-1"], "optimizer.build.lr is -1"),
        (["method=seot", "sparsity=weight"], "nothing to mask"),
    ],
)
def test_run_says_so_in_one_line_before_any_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(ROOT)
    given = {override.split("=")[0] for override in overrides}
    short = [override for override in SHORT if override.split("=")[0] not in given]
    done = Command(tmp_path, monkeypatch, capsys)(*short, *overrides, code=1)
    assert message in complaint(done)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".png", ".jpg", ".safetensors")]
