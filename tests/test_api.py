"""The few lines of Python and the few commands that a user needs, on stock pipelines; and what they refuse."""

from __future__ import annotations

import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from adapting import made, predict, state
from diffusers import (
    DDPMPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from snippet import SHORT, image

import fade
from fade.adapters.folder import complete
from fade.api import RETAIN, without
from fade.files import write_json
from fade.methods.spm import Spm
from fade.models import Diffusion
from fade.sparsity import Dense, Neuron
from fade.tensors import read_tensors, tensors_hash, write_tensors


@pytest.fixture
def pipe(model: Diffusion) -> StableDiffusionPipeline:
    return model.pipe


def test_the_snippet(pipe: StableDiffusionPipeline, model: Diffusion, tmp_path: Path) -> None:
    """Trained, saved, on inside and off outside, scaled, merged, removed; the caller's random state stays."""
    clean, untouched, drawn = state(model), image(pipe), torch.random.get_rng_state()
    adapter = fade.unlearn(pipe, concept="neon style", surrogate="photo style", method="fade", **SHORT)
    assert state(model) == clean and torch.equal(torch.random.get_rng_state(), drawn)
    adapter.save(tmp_path / "neon")
    with fade.load(pipe, tmp_path / "neon") as handle:
        inside = image(pipe)
        assert "off" not in repr(handle)
    assert not torch.equal(inside, untouched) and torch.equal(image(pipe), untouched) and state(model) == clean
    with adapter:
        assert torch.equal(image(pipe), inside)
    handle = fade.load(pipe, tmp_path / "neon")
    handle.scale = 0.5
    half = image(pipe)
    handle.merge()
    torch.testing.assert_close(image(pipe), half, rtol=0, atol=1e-4)
    handle.remove()
    handle.remove()
    assert state(model) == clean and torch.equal(image(pipe), untouched)
    with handle:  # on again, at its scale
        assert torch.equal(image(pipe), half)
    with pytest.raises(fade.BadInput, match="is off"):
        handle.merge()
    about = json.loads((tmp_path / "neon" / "adapter.json").read_text())
    assert about["target"] == "neon style" and about["settings"]["steps"] == 3 and about["versions"]["torch"]
    card = (tmp_path / "neon" / "README.md").read_text()
    assert (
        card.startswith("---\nlibrary_name: diffusers") and "forget **neon style**" in card and about["sha256"] in card
    )
    again = fade.unlearn(pipe, "neon style", "photo style", **SHORT)
    assert again.card["sha256"] == about["sha256"]  # the same words, the same seed, the same adapter


@pytest.mark.parametrize(
    "method", ["uce", "seot", Spm(sampling_steps=2), "ca"], ids=lambda m: m if isinstance(m, str) else type(m).__name__
)
def test_other_methods(pipe: StableDiffusionPipeline, model: Diffusion, tmp_path: Path, method: Any) -> None:
    """A closed form, a text edit, a gated change (a Method given as an object), a distillation."""
    clean, untouched = state(model), image(pipe)
    adapter = fade.unlearn(pipe, "neon style", "photo style", method, **SHORT)
    adapter.save(tmp_path / "a")
    with adapter:
        wanted = image(pipe)
    with fade.load(pipe, tmp_path / "a"):
        assert torch.equal(image(pipe), wanted) and not torch.equal(wanted, untouched)
    assert state(model) == clean and torch.equal(image(pipe), untouched)


def test_what_is_not_given_is_what_the_method_published(pipe: StableDiffusionPipeline) -> None:
    short = {key: value for key, value in SHORT.items() if key not in ("lr", "steps")}
    found = fade.unlearn(pipe, "neon style", "photo style", "spm", **short, steps=1).card
    assert found["settings"]["terms"] == {"forget": 1.0, "retain": 1000.0} and found["rank"] == 1
    assert found["settings"]["optimizer"] == {"lr": 1e-4, "weight_decay": 1e-2}
    assert found["settings"]["schedule"] == {"locate_batch": 4, "warmup": 500, "cosine": True}
    with pytest.raises(
        fade.BadInput, match="EraseDiff published no rate for Stable Diffusion; give lr=NUMBER and steps=NUMBER"
    ):
        fade.unlearn(pipe, "neon style", "photo style", "ediff", **short)


def test_several_handles_in_any_order(pipe: StableDiffusionPipeline, model: Diffusion, tmp_path: Path) -> None:
    for seed, (name, kind) in enumerate({"a": Neuron(0.3), "b": Dense(), "c": None}.items()):
        made(model, name, kind, seed).write(tmp_path / name)
    clean = state(model)
    a, b = fade.load(pipe, tmp_path / "a"), fade.load(pipe, tmp_path / "b")
    both = predict(model)
    c = fade.load(pipe, tmp_path / "c", scale=0.3)
    b.merge()
    a.remove()
    c.remove()
    b.unmerge()
    a.attach()
    assert torch.equal(predict(model), both)
    b.remove()
    a.remove()
    assert state(model) == clean


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "fdae"}, "method 'fdae' is unknown; choose advunlearn, ca, diff_quickfix, ediff, esd"),
        ({"surrogate": "neon style"}, "not the same"),
        ({"concept": " "}, "concept is ' '; it must be text, not empty"),
        ({"templates": ["A cat image"]}, "needs exactly one {}"),
        ({"sparsity": "sprase"}, "choose dense, module, neuron, weight"),
        ({"p": 2.0}, "p is 2.0; it must be a number, above 0 and at most 1"),
        ({"rank": 0}, "1 or more"),
        ({"steps": 0}, "must be 1 or more"),
        ({"targets": ["to_nothing"]}, "no linear layer"),
        ({"images": 0}, "images is 0; it must be a whole number, 1 or more"),
        ({"concept": None}, "concept is None; it must be text"),
        ({"surrogate": 5}, "surrogate is 5; it must be text"),
        ({"retain": "abc"}, "retain is 'abc'; it must be a list of text"),
        ({"retain": []}, "it must be a list of text, not empty"),
        ({"retain": ["A cat in Neon style."]}, "asks for the concept 'neon style' itself"),
        ({"templates": "A {}."}, "templates is 'A {}.'; it must be a list of text"),
        ({"templates": [None]}, "it must be a list of text"),
        ({"targets": "to_q"}, "targets is 'to_q'; it must be a list of text"),
        ({"targets": []}, "it must be a list of text"),
        ({"images": 1.5}, "images is 1.5; it must be a whole number"),
        ({"sampling_steps": 0}, "sampling_steps is 0; it must be a whole number, 1 or more"),
        ({"guidance": float("nan")}, "guidance is nan; it must be a number"),
        ({"guidance": "x"}, "guidance is 'x'; it must be a number"),
        ({"rank": 2.5}, "rank is 2.5; it must be a whole number"),
        ({"alpha": float("nan")}, "alpha is nan; it must be a number, above 0"),
        ({"lr": 0}, "lr is 0; it must be a number, above 0"),
        ({"steps": 1.5}, "steps is 1.5; it must be a whole number"),
        ({"batch": True}, "batch is True; it must be a whole number"),
        ({"lr": 1e300}, r"lr is 1e\+300; it must be a number, above 0 and at most 1e\+30"),
        ({"terms": {}}, "terms is {}; name a loss term"),
        ({"terms": {"foo": 1}}, "terms has 'foo'; Fade has the terms forget, retain"),
        ({"terms": {"forget": float("nan")}}, "terms.forget is nan; it must be a number, 0 or more"),
        ({"seed": -1}, "seed is -1; it must be a whole number, from 0 to 4294967295"),
        ({"surrogate": "photo " * 20}, "tokens and the text encoder takes 14; shorten it"),
        ({"retain": ["red " * 15]}, "the caption 'red red"),
        ({"method": None}, "method is None; it must be text"),
        ({"pipe": None}, "pipe is None; it must be a DiffusionPipeline"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_unlearn_refuses(
    pipe: StableDiffusionPipeline, model: Diffusion, given: dict[str, Any], message: str
) -> None:
    clean = state(model)
    with pytest.raises(fade.BadInput, match=message.replace("{", r"\{").replace("}", r"\}")):
        fade.unlearn(**{"pipe": pipe, "concept": "neon style", "surrogate": "photo style", **SHORT, **given})
    assert state(model) == clean


def test_a_concept_is_looked_for_as_a_word_and_left_out_of_the_default_prompts() -> None:
    assert without(RETAIN, "Red_car") == [prompt for prompt in RETAIN if prompt != "a red car"]
    assert without(("a party", "Van Goghs"), "art") == ["a party", "Van Goghs"]
    with pytest.raises(fade.BadInput, match="retain has 'A VAN GOGH'"):
        without(["a tree", "A VAN GOGH"], "Van_Gogh")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"save": {"folder": None}}, "folder is None; it must be a path or text"),
        ({"save": {"folder": 5}}, "folder is 5; it must be a path or text"),
        ({"export": {"folder": None}}, "folder is None; it must be a path or text"),
        ({"export": {"rank": "x"}}, "rank is 'x'; it must be a whole number, 1 or more or None"),
        ({"export": {"rank": 2.5}}, "rank is 2.5; it must be a whole number, 1 or more or None"),
        ({"export": {"limit": "x"}}, "limit is 'x'; it must be a number, 0 or more"),
        ({"export": {"to": None}}, "to is None; it must be text"),
        ({"export": {"to": "foo"}}, "to='foo' is unknown; choose diffusers, peft, patch"),
        ({"load": {"scale": None}}, "scale is None; it must be a number"),
        ({"load": {"scale": "1"}}, "scale is '1'; it must be a number"),
        ({"load": {"force": 1}}, "force is 1; it must be true or false"),
    ],
    ids=str,
)
def test_what_a_handle_refuses(model: Diffusion, tmp_path: Path, given: dict[str, Any], message: str) -> None:
    handle = fade.Handle(model, made(model, "neon", Neuron(0.3), 0))
    ((name, options),) = given.items()
    call = partial(fade.load, model.pipe) if name == "load" else getattr(handle, name)
    with pytest.raises(fade.BadInput, match=message):
        call(**{"folder": tmp_path / "new", **options})
    for scale in ("x", "1", None, True, [1]):
        with pytest.raises(fade.BadInput, match=r"scale is .*; it must be a number"):
            handle.scale = scale
    assert handle.scale == 1 and not list(tmp_path.iterdir())


def test_an_adapter_goes_onto_any_pipeline_of_the_same_parts_and_onto_nothing_else(
    model: Diffusion, tmp_path: Path
) -> None:
    made(model, "neon", Neuron(0.3), 0).write(tmp_path / "neon")
    clean = state(model)
    for kind in (StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline):
        with fade.load(kind(**model.pipe.components), tmp_path / "neon"):
            assert state(model) != clean
        assert state(model) == clean
    for wrong, message in (
        (None, "pipe is None; it must be a DiffusionPipeline"),
        ("sd", "pipe is 'sd'; it must be a DiffusionPipeline"),
        (model.unet, "pipe is a UNet2DConditionModel; it must be a DiffusionPipeline"),
        (model, "pipe is a StableDiffusion; it must be a DiffusionPipeline"),
        (DDPMPipeline(model.unet, model.pipe.scheduler), "DDPMPipeline has no vae; only pipelines of Stable Diffusion"),
    ):
        for call in (partial(fade.load, folder=tmp_path / "neon"), fade.attached):
            with pytest.raises(fade.BadInput, match=message):
                call(wrong)
    for folder, message in (
        (None, "folder is None; it must be a path or text"),
        (5, "folder is 5; it must be a path or text"),
    ):
        with pytest.raises(fade.BadInput, match=message):
            fade.load(model.pipe, folder)
    assert state(model) == clean


def test_half_precision_is_for_use_not_for_training(pipe: StableDiffusionPipeline) -> None:
    pipe.to(torch.float16)
    with pytest.raises(fade.BadInput, match="training needs float32"):
        fade.unlearn(pipe, "neon style", "photo style", **SHORT)


def spoil(folder: Path, how: str) -> None:
    """One kind of damage to an adapter's folder."""
    file, card = folder / "adapter.safetensors", folder / "adapter.json"
    about, (tensors, metadata) = json.loads(card.read_text()), read_tensors(file)
    tensors = {name: value.clone() for name, value in tensors.items()}  # not mapped from the file that is spoilt
    data = file.read_bytes()
    if how == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif how == "header":
        file.write_bytes(data[:4])
    elif how == "flipped":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif how == "pickle":
        file.write_bytes(pickle.dumps({"a": 1}))
    elif how == "torch":
        torch.save(tensors, file)
    elif how == "metadata":
        write_tensors(file, tensors)
    elif how == "missing":
        file.unlink()
    elif how == "card":
        card.unlink()
    elif how == "json":
        card.write_text("{")
    elif how == "list":
        card.write_text("[]")
    elif how == "layers":  # consistent, but of no such U-Net
        new = {f"nowhere.{k}": v for k, v in about["layers"].items()}
        tensors = {f"nowhere.{k}": v for k, v in tensors.items()}
        write_tensors(file, tensors, {"sha256": "", "card": "{}"})
        write_json(card, about | {"layers": new, "sha256": tensors_hash(tensors)})
    elif how == "rank":  # the card alone
        write_json(card, about | {"alpha": 100})
    elif how == "shape":
        write_tensors(file, tensors, metadata | {"card": "{}"})
        write_json(card, about | {"rank": 3})
    elif how == "kind":
        write_json(card, about | {"kind": "hypernetwork"})
    elif how == "format":
        write_json(card, about | {"format": 99})


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "is truncated or no safetensors file"),
        ("header", "is truncated or no safetensors file"),
        ("flipped", "its hash differs"),
        ("pickle", "is a pickle, which can run code"),
        ("torch", "is a pickle, which can run code"),
        ("metadata", "has no metadata"),
        ("missing", r"adapter\.safetensors is missing"),
        ("card", r"adapter\.json is missing"),
        ("json", "is no JSON"),
        ("list", "is no adapter's card"),
        ("layers", "which this U-Net does not have; it was made for another model"),
        ("rank", "differ in 'alpha'; one of them was changed"),
        ("shape", "its tensors do not fit its own card"),
        ("kind", "kind 'hypernetwork', which this version does not know"),
        ("format", "has format 99; this version reads up to"),
        ("base", "was made for the base .*, and this pipeline is .*; force=True"),
        ("architecture", "which this U-Net does not have"),
    ],
)
def test_bad_files_are_one_line_and_the_pipeline_stays(
    model: Diffusion, tmp_path: Path, how: str, message: str
) -> None:
    folder = tmp_path / "neon"
    made(model, "a", Neuron(0.3), 0).write(folder)
    spoil(folder, how)
    if how == "base":
        with torch.no_grad():
            model.unet.conv_in.bias[0] += 1
    if how == "architecture":
        model.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k = torch.nn.Linear(8, 8)
    clean = state(model)
    with pytest.raises(fade.BadInput, match=message) as caught:
        fade.load(model.pipe, folder)
    assert "\n" not in str(caught.value) and state(model) == clean and not hasattr(model.unet, "peft_config")
    if how == "base":
        with fade.load(model.pipe, folder, force=True):
            assert state(model) != clean
        assert state(model) == clean


def test_results_come_into_the_card_and_the_file_stays(model: Diffusion, tmp_path: Path) -> None:
    folder, picture = tmp_path / "neon", tmp_path / "p.png"
    made(model, "neon", Neuron(0.3), 0).write(folder)
    picture.write_bytes(b"png")
    before = (folder / "adapter.safetensors").read_bytes()
    assert "Not at all: no results" in (folder / "README.md").read_text()
    ua = {"value": 0.975, "low": 0.871, "high": 0.996, "n": 40}
    results = {
        "metrics": {"ua": ua, "fid_judge": {"value": 2.181, "n": 9}},
        "base": {"ua": {**ua, "value": 0.0}},
        "dataset": "d",
        "protocol": "p",
        "gates": {"judge_accuracy": {"style": 1.0}},
        "landed": {"photo": 40},
    }
    complete(folder, results, picture)
    card = (folder / "README.md").read_text()
    assert "97.5 [87.1, 99.6]" in card and "![before and after](before_after.png)" in card and "NOT checked" in card
    assert (folder / "adapter.safetensors").read_bytes() == before and (folder / "before_after.png").is_file()
    assert not list(tmp_path.glob(".*"))
    with fade.load(model.pipe, folder):  # the card has grown, and still belongs to its file
        pass
