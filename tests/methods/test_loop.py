"""Every method from yaml to file and back: what it trains, masks, kills; what a step is taken along."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from adapting import inputs
from configs import METHODS, composed
from hydra.utils import instantiate
from loops import Killed, config_of, dying, trained, unlearner_of
from torch import Tensor, nn

from fade.adapters import Adapter
from fade.adapters.patch import Patch
from fade.adapters.stored import Stored
from fade.data.pairs import Pairs
from fade.errors import BadInput
from fade.methods import Method
from fade.models import Diffusion
from fade.timesteps import Uniform, with_timesteps
from fade.training.unlearner import Unlearner


def parameters_of(model: Diffusion, chosen: Callable[[str, nn.Module], bool]) -> set[str]:
    """The names of all parameters of the chosen modules themselves."""
    return {
        f"{name}.{key}"
        for name, module in model.unet.named_modules()
        if chosen(name, module)
        for key, _ in module.named_parameters(recurse=False)
    }


TRAINS: dict[str, Callable[[str, nn.Module], bool]] = {
    **dict.fromkeys(
        ("esd", "ediff", "fmn", "stereo"), lambda name, _: ".attn2." in name
    ),  # ESD-x: all of cross-attention
    **dict.fromkeys(("ca", "uce", "rece"), lambda name, _: name.endswith(("attn2.to_k", "attn2.to_v"))),
    "speed": lambda name, _: name.endswith("attn2.to_v"),
    **dict.fromkeys(("salun", "shs", "task_vector"), lambda *_: True),
}


@pytest.mark.parametrize("name", TRAINS)
def test_a_patch_trains_the_weights_of_its_paper(model: Diffusion, name: str) -> None:
    wanted = parameters_of(model, TRAINS[name])
    instantiate(composed(f"method={name}").adapter, _convert_="all")(model)
    assert {n for n, p in model.unet.named_parameters() if p.requires_grad} == wanted


@pytest.mark.parametrize(
    ("name", "rank", "within"),
    [*((name, 8, "to_") for name in ("fade", "spare", "fade_uce", "fade_robust")), ("spm", 1, "")],
)
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


@torch.no_grad()
def answer(model: Diffusion) -> Tensor:
    """What the model says to a prompt that names the concept."""
    z, t, _ = inputs(model)
    return model.predict(z, t, model.embed(["A house cat image in neon glow style."] * len(z)))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_from_yaml_to_file_and_back(model: Diffusion, pairs: Pairs, tmp_path: Path, name: str) -> None:
    config = config_of(name, 2)
    before, untouched = {k: v.detach().clone() for k, v in model.changeable().items()}, answer(model)
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
        for term in (*(term for term, weight in method.terms.items() if weight), "total")
        if method.terms
    )
    assert unlearner.trainer.global_step == config.trainer.max_steps
    changed = answer(model)
    assert changed.isfinite().all() and not torch.equal(changed, untouched)
    check_only_masked_weights_moved(model, adapter, before)
    Stored.of(adapter, {}).write(tmp_path / "adapter")
    identity = adapter.sha256()
    adapter.detach()
    after = model.changeable()
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)
    assert torch.equal(answer(model), untouched) and not any(p.requires_grad for p in model.parameters())
    again = Stored.read(tmp_path / "adapter").attach(model)
    assert again.sha256() == identity and (answer(model) - changed).abs().max() == 0
    with again.off():
        assert torch.equal(answer(model), untouched)


def check_only_masked_weights_moved(model: Diffusion, adapter: Adapter, before: dict[str, Tensor]) -> None:
    """In the weights themselves: a LoRA and an edit of the text move nothing; a patch moves what its masks keep."""
    masks = adapter.masks() if isinstance(adapter, Patch) else {}
    weights = model.changeable()
    assert weights.keys() == before.keys()
    moved = 0
    for name, weight in weights.items():
        kept = masks.get(name, torch.zeros_like(weight, dtype=torch.bool))
        assert torch.equal(weight[~kept], before[name][~kept]), name
        moved += bool((weight[kept] != before[name][kept]).any())
    assert moved >= 0.8 * len(masks)  # a bias before a normalisation has no gradient, a key's bias none either


def state_of(adapter: Adapter, unlearner: Unlearner) -> tuple[str, int, int]:
    return adapter.sha256(), adapter.teacher_passes, unlearner.trainer.global_step


TWICE = ("salun", "stereo")  # what is left before a checkpoint: the masks; a search of the method's own


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("salun", ["adapter.targets=['attn']"]),
        ("shs", ["sparsity=weight", "adapter.targets=['attn']", "method.cone=true"]),
        ("ediff", ["method.passes=1", "method.epoch=3"]),
        ("spare", []),
        ("task_vector", ["adapter.targets=['attn']"]),
        ("fade_robust", []),
        ("fade_uce", []),
        ("stereo", []),
        ("advunlearn", ["method.warmup=1", "method.attack_steps=2"]),
        ("resalign", ["method.tuning_steps=[1,2]", "method.rates=[1e-2]"]),
    ],
)
def test_killed_and_resumed_is_undisturbed(
    model: Diffusion, pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, overrides: list[str]
) -> None:
    def train(folder: str, seed: int) -> tuple[str, int, int]:
        L.seed_everything(seed, verbose=False)
        adapter = instantiate(config.adapter, _convert_="all")(model)
        try:
            return state_of(adapter, trained(config, model, adapter, pairs, tmp_path / folder, every=2))
        finally:
            adapter.detach()

    def killed(at: int, seed: int) -> None:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Unlearner, "training_step", dying(at))
            train("killed", seed)

    config = config_of(name, 3, *overrides)
    undisturbed = train("whole", 4)
    if name in TWICE:
        killed(2, 4)  # before the first checkpoint
        assert not (tmp_path / "killed" / "last.ckpt").is_file()
    # whatever state the next process starts in; but a LoRA's first values are drawn from the global seed, which run.py
    # sets
    killed(3, 4 if config.adapter._target_.endswith("Lora.attach") else 99)
    assert (tmp_path / "killed" / "last.ckpt").is_file()
    assert train("killed", 99) == undisturbed


def test_the_loop_steps_along_what_combine_gives(model: Diffusion, pairs: Pairs, tmp_path: Path) -> None:
    config = config_of("ediff", 1, "method.step=0.1")
    adapter = instantiate(config.adapter, _convert_="all")(model)
    unlearner = unlearner_of(config, model, adapter, pairs, tmp_path / "none")
    batch = with_timesteps(pairs.draw(torch.Generator().manual_seed(1)), Uniform(), torch.zeros(0), model.process)
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
