"""Every method against its paper: formula, gradient, passes, weights, invariants, and a run from yaml to file and back."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from conftest import inputs, shake
from hydra.utils import instantiate
from omegaconf import DictConfig
from test_config import ROOT, composed
from test_stages import Killed, dying, quiet
from torch import Tensor, nn

from fade.adapters import Adapter
from fade.data.minicanvas import MiniCanvas
from fade.data.pairs import Batch, Pairs, Request
from fade.diffusion import Diffusion
from fade.errors import BadInput
from fade.lora import Gate, Lora
from fade.methods import Method
from fade.methods.ca import ConceptAblation
from fade.methods.ediff import EraseDiff
from fade.methods.esd import Esd
from fade.methods.fade import Fade
from fade.methods.fmn import ForgetMeNot
from fade.methods.salun import SalUn
from fade.methods.seot import Seot
from fade.methods.shs import ScissorHands
from fade.methods.spm import Spm, anchored
from fade.methods.uce import Uce, aligned, solve
from fade.patch import Patch
from fade.saliency import sum_of_signed
from fade.sparsity import Dense, Weight
from fade.textedit import TextEdit, suppressed
from fade.timesteps import Uniform, timed
from fade.unlearner import Unlearner, fit

METHODS = [path.stem for path in sorted((ROOT / "conf" / "method").glob("*.yaml"))]
STEPS = 4  # of the sampler that ESD and SPM train on
Losses = dict[str, Tensor]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents are encoded once for all tests here: every `model` is the same."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def pairs(dataset: MiniCanvas, model: Diffusion, cache: Path) -> Pairs:
    request = Request.check(dataset, "neon", "photo")
    pairs = Pairs(dataset, request, forget=16, retain=64, batch=2, cache=cache)
    pairs.prepare(model)
    return pairs


# each method's loss, written again: with its own noise, its own sampler, its own teacher


class Formula:
    """The losses of one batch as functions of the live weights; what stands behind a stop-gradient is computed once."""

    def __init__(self, model: Diffusion, base: nn.Module, batch: Batch) -> None:
        self.unet, self.base, self.batch = model.unet, base, batch
        self.empty = model.embed([""])
        self.alphas = model.pipe.scheduler.alphas_cumprod

    def noised(self, side: str) -> tuple[Tensor, Tensor]:
        example: Any = self.batch[side]  # type: ignore[literal-required]
        alpha = self.alphas[example["t"]].to(example["latents"])[:, None, None, None]
        return alpha.sqrt() * example["latents"] + (1 - alpha).sqrt() * example["noise"], example["t"]

    def denoising(self, side: str, caption: str = "prompt") -> Tensor:
        z, t = self.noised(side)
        example: Any = self.batch[side]  # type: ignore[literal-required]
        return ((self.unet(z, t, example[caption]).sample - example["noise"]) ** 2).mean()

    def sampled(self, unet: nn.Module, c: Tensor, guidance: float = 3.0) -> tuple[Tensor, int]:
        """DDIM (η = 0) from pure noise to a random step of STEPS, drawn as the methods draw."""
        torch.manual_seed(7)
        stop = int(torch.randint(0, STEPS, (1,)))
        z = torch.randn(len(c), 4, 8, 8, dtype=c.dtype)
        times = [1 + (STEPS - 1 - k) * 1000 // STEPS for k in range(STEPS)]
        for t in times[:stop]:
            with torch.no_grad():
                given, empty = unet(z, t, c).sample, unet(z, t, self.empty.expand_as(c)).sample
            ε = empty + guidance * (given - empty)
            now, then = self.alphas[t].double(), self.alphas[max(t - 1000 // STEPS, 0)].double()
            z = then.sqrt() * (z - (1 - now).sqrt() * ε) / now.sqrt() + (1 - then).sqrt() * ε
        return z, times[stop]

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

    def ca(self, teacher: nn.Module) -> Callable[[], Losses]:
        z, t = self.noised("anchor")
        anchor = self.batch["anchor"]
        wanted = teacher(z, t, anchor["surrogate"]).sample
        return lambda: {
            "forget": self.distance(z, t, anchor["prompt"], wanted),
            "prior": self.denoising("anchor", "surrogate"),
        }

    def pseudo(self) -> Callable[[], Losses]:
        """SalUn's and EraseDiff's: the live model under the surrogate caption, detached, and plain denoising."""
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

    def spm(self) -> Callable[[], Losses]:
        c = self.batch["forget"]["prompt"]
        z, t = self.sampled(self.unet, c)
        others = anchored(c, 4)
        given, empty = self.base(z, t, c).sample, self.base(z, t, self.empty.expand_as(c)).sample
        same = z[:1].expand(4, -1, -1, -1)
        kept = self.base(same, t, others).sample
        return lambda: {
            "forget": self.distance(z, t, c, empty - 1.0 * (given - empty)),
            "retain": self.distance(same, t, others, kept),
        }

    def shs(self) -> Callable[[], Losses]:
        return lambda: {"forget": self.denoising("forget"), "retain": self.denoising("retain")}

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
                q, k = (x.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for x in (layer.to_q(hidden), layer.to_k(context)))
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

    handles = [m.register_forward_pre_hook(hook, with_kwargs=True) for n, m in unet.named_modules() if n.endswith("attn2")]
    yield seen
    for handle in handles:
        handle.remove()


SAMPLED = f"method.sampling_steps={STEPS}"
# overrides -> the formula, the teacher's passes (None: STEPS of the sampler among them) and all passes but the sampler's
CASES: dict[tuple[str, ...], tuple[Callable[[Formula], Callable[[], Losses]], int | None, int]] = {
    ("fade",): (Formula.fade, 1, 2),
    ("spare",): (Formula.fade, 1, 2),
    ("ca",): (lambda f: f.ca(f.base), 1, 3),
    ("ca", "method.variant=as_released"): (lambda f: f.ca(f.unet), 0, 3),
    ("salun",): (Formula.pseudo, 0, 3),
    ("ediff",): (Formula.pseudo, 0, 3),
    ("esd", SAMPLED): (lambda f: f.esd(f.unet, True, 1.0), 2, 3),
    ("esd", SAMPLED, "method.variant=as_released", "method.eta=2"): (lambda f: f.esd(f.base, False, 2.0), None, 3),
    ("spm", SAMPLED): (Formula.spm, 3, 5),
    ("shs",): (Formula.shs, 0, 2),
    ("fmn",): (lambda f: f.fmn(False), 0, 1),
    ("fmn", "method.end=true"): (lambda f: f.fmn(True), 0, 1),
}
TRAINED = {key[0] for key in CASES}


def test_every_trained_method_has_a_formula() -> None:
    untrained = {name for name in METHODS if not instantiate(composed(f"method={name}").method).terms}
    assert set(METHODS) - untrained == TRAINED and untrained == {"uce", "seot"}


def exact(batch: Batch) -> Batch:
    return {side: {key: value.double() if value.is_floating_point() else value for key, value in example.items()}  # type: ignore
            for side, example in batch.items()}  # type: ignore[attr-defined]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_loss_gradient_and_passes(model: Diffusion, pairs: Pairs, case: tuple[str, ...]) -> None:
    """The loss is its formula; its gradient is the formula's finite difference, with what is detached held fixed; and a step
    takes the passes that methods.md gives."""
    formula_of, teacher, passes = CASES[case]
    model.double()
    base = copy.deepcopy(model.unet).requires_grad_(False)
    config = composed(f"method={case[0]}", *case[1:])
    method, adapter = instantiate(config.method), instantiate(config.adapter, _convert_="all")(model)
    adapter_moved(adapter)
    method.prepare(model, adapter, pairs)
    torch.manual_seed(2)
    batch = exact(timed(pairs.draw(torch.Generator().manual_seed(1)), Uniform(), torch.zeros(0), 1000))
    formula = formula_of(Formula(model, base, batch))
    counted = []
    handle = model.unet.register_forward_pre_hook(lambda *_: counted.append(1))
    torch.manual_seed(7)
    losses = method.losses(model, adapter, batch)
    handle.remove()
    wanted = formula()
    assert losses.keys() == wanted.keys() == set(method.terms)
    for name in losses:
        assert wanted[name] > 1e-6
        torch.testing.assert_close(losses[name], wanted[name], rtol=1e-6, atol=1e-12)
    torch.manual_seed(7)
    stop = int(torch.randint(0, STEPS, (1,))) if SAMPLED in case else 0
    assert SAMPLED not in case or stop == 3  # the sampler is at work in this test
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


def check_gradients(parameters: list[nn.Parameter], losses: Losses, formula: Callable[[], Losses], h: float = 1e-5) -> None:
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
    return {f"{name}.{key}" for name, module in model.unet.named_modules() if chosen(name, module)
            for key, _ in module.named_parameters(recurse=False)}  # fmt: skip


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
    layers = [m for n, m in model.unet.named_modules() if ".transformer_blocks." in n and within in n and isinstance(m, nn.Linear)]
    wanted = sum(rank * (m.in_features + m.out_features) for m in layers)
    adapter = instantiate(composed(f"method={name}").adapter, _convert_="all")(model)
    assert sum(p.numel() for p in adapter.parameters()) == wanted > 0
    assert {id(p) for p in model.unet.parameters() if p.requires_grad} == {id(p) for p in adapter.parameters()}


# from yaml to file and back: a new method is tested by existing


def unlearner_of(config: DictConfig, model: Diffusion, adapter: Adapter, pairs: Pairs, file: Path) -> Unlearner:
    return Unlearner(
        model, adapter, pairs, instantiate(config.method), instantiate(config.sparsity), dict(config.weights),
        instantiate(config.optimizer.build), instantiate(config.timesteps), file, **config.optimizer.schedule, seed=config.seed,
    )  # fmt: skip


def trained(config: DictConfig, model: Diffusion, adapter: Adapter, pairs: Pairs, folder: Path, every: int = 3) -> Unlearner:
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
    method.check(adapter.kind, instantiate(config.sparsity).kind, config.trainer.max_steps, instantiate(config.timesteps).kind)
    for kind in {"lora", "patch", "text"} - set(method.kinds):
        with pytest.raises(BadInput, match="choose another adapter"):
            method.check(kind, "dense", config.trainer.max_steps)
    unlearner = trained(config, model, adapter, pairs, tmp_path)
    assert all(unlearner.trainer.callback_metrics[f"loss/{term}"].isfinite() for term in (*method.terms, "total") if method.terms)
    assert unlearner.trainer.global_step == config.trainer.max_steps
    changed = answer(model)
    assert changed.isfinite().all() and not torch.equal(changed, untouched)
    check_only_masked_weights_moved(model, adapter, before)
    adapter.save(tmp_path / "adapter", {})
    identity = adapter.sha256()
    adapter.detach()
    after = model.unet.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)
    assert torch.equal(answer(model), untouched) and not any(p.requires_grad for p in model.unet.parameters())
    again = Adapter.load(model, tmp_path / "adapter")
    assert again.sha256() == identity and (answer(model) - changed).abs().max() == 0
    with again.off():
        assert torch.equal(answer(model), untouched)


def check_only_masked_weights_moved(model: Diffusion, adapter: Adapter, before: dict[str, Tensor]) -> None:
    """In the U-Net itself: a LoRA and an edit of the text move nothing, a patch what its masks keep, and each tensor of them."""
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
    [("salun", ["adapter.targets=['attn']"]), ("shs", ["sparsity=weight", "adapter.targets=['attn']"]), ("spare", [])],
)
def test_killed_and_resumed_is_undisturbed(
    model: Diffusion, pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, overrides: list[str], dies_at: int
) -> None:
    def train(folder: str, seed: int) -> tuple[str, int, int]:
        L.seed_everything(seed, verbose=False)
        adapter = instantiate(config.adapter, _convert_="all")(model)
        try:
            return state_of(adapter, trained(config, model, adapter, pairs, tmp_path / folder))
        finally:
            adapter.detach()

    config = config_of(name, 6, *overrides)
    if config.adapter._target_.endswith("Lora.attach"):  # its first values come from the global seed, and run.py sets it
        seeds = (4, 4)
    else:
        seeds = (4, 99)  # whatever state the second process starts in
    undisturbed = train("whole", 4)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Unlearner, "training_step", dying(dies_at))
        train("killed", seeds[0])
    assert (tmp_path / "killed" / "last.ckpt").is_file() == (dies_at > 3)
    assert train("killed", seeds[1]) == undisturbed
