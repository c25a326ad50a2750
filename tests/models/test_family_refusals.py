"""What no family takes, in one line each and before any work: samplers, adapters, lengths, captions and pipelines that
are not its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from families import CAPTIONS, LENGTH, TINY, tiny

import fade
from fade.adapters.export import export
from fade.adapters.lora import Lora
from fade.adapters.patch import Patch
from fade.adapters.stored import Stored
from fade.adapters.verify import claims
from fade.cli import main
from fade.errors import BadInput
from fade.models import Diffusion, Noise, Sampling

FLOWS = ("sd3", "flux", "sana")
LONG = ("sd3", "flux", "sana")
MODELS: dict[str, Diffusion] = {}


@pytest.fixture(params=TINY)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(family: str) -> Diffusion:
    """Built once a session; no test here changes it."""
    return MODELS.setdefault(family, tiny(family))


def kept(model: Diffusion) -> Stored:
    """A low-rank change of zero, as a folder holds it."""
    adapter = Lora.attach(model, rank=1, alpha=1)
    stored = Stored.of(adapter, {"target": "neon"})
    adapter.detach()
    return stored


def test_a_sampler_of_the_other_kind(family: str, model: Diffusion) -> None:
    wrong = "DDIMScheduler" if family in FLOWS else "FlowMatchEulerDiscreteScheduler"
    with pytest.raises(BadInput, match="choose one such as"):
        model.scheduler(wrong)
    good = "DPMSolverMultistepScheduler"
    assert model.generate(CAPTIONS[:1], [Noise(4)], Sampling(sampler=good, steps=2)).isfinite().all()


def test_a_pipeline_that_was_given_one(family: str, model: Diffusion) -> None:
    """diffusers makes it without a word, and what it draws is noise."""
    pipe, own = model.pipe, model.pipe.scheduler
    wrong = DDIMScheduler if family in FLOWS else FlowMatchEulerDiscreteScheduler
    set_wrong = DPMSolverMultistepScheduler(use_flow_sigmas=family not in FLOWS)
    try:
        for scheduler, said in ((wrong(), "choose one such as"), (set_wrong, "use_flow_sigmas=")):
            pipe.scheduler = scheduler
            with pytest.raises(BadInput, match=said):
                fade.attached(pipe)
    finally:
        pipe.scheduler = own
    assert fade.attached(pipe) == []


def test_an_adapter_of_another_family(family: str, model: Diffusion) -> None:
    other = "flux" if family == "sd3" else "sd3"
    stored = kept(MODELS.setdefault(other, tiny(other)))
    with pytest.raises(BadInput, match="and this pipeline is a"):
        stored.attach(model, force=True)
    with pytest.raises(BadInput, match="and this pipeline is a"):
        list(claims(stored, lambda: model))


def fused(pipe: Any) -> None:
    pipe.transformer.fuse_qkv_projections()


def hooked(pipe: Any) -> None:
    """As `enable_model_cpu_offload` and `enable_sequential_cpu_offload` do, which ask for a GPU."""
    add_hook_to_module(pipe.transformer, ModelHook())


def grouped(pipe: Any) -> None:
    pipe.transformer.enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")


def cast(pipe: Any) -> None:
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (fused, "call pipe.unfuse_qkv_projections"),
        (hooked, "CPU offload.*pipe.remove_all_hooks"),
        (grouped, "CPU offload.*load it again"),
        (cast, "load it again without offloading or layerwise casting"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_pipeline_whose_parts_are_elsewhere(change: Callable[[Any], None], said: str, tmp_path: Path) -> None:
    pipe = tiny("sd3").pipe
    kept(MODELS.setdefault("sd3", tiny("sd3"))).write(tmp_path / "adapter")
    change(pipe)
    for act in (
        lambda: fade.attached(pipe),
        lambda: fade.load(pipe, tmp_path / "adapter"),
        lambda: fade.unlearn(pipe, "neon", "photo"),
    ):
        with pytest.raises(BadInput, match=said):
            act()


def test_a_pipeline_that_has_drawn_is_no_other(model: Diffusion) -> None:
    """Some leave an empty registry of hooks behind."""
    model.generate(CAPTIONS[:1], [Noise(4)])
    assert fade.attached(model.pipe) == []


def test_a_quantised_base_is_not_written_to() -> None:
    model = tiny("sd3")
    adapter = Lora.attach(model, rank=1, alpha=1)
    layer = next(iter(adapter.layers.values())).get_base_layer()
    layer.weight = torch.nn.Parameter(torch.zeros(layer.weight.shape, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(BadInput, match=r"is quantised.*merge it into the pipeline that was quantised"):
        adapter.merge()
    assert not adapter.merged
    with pytest.raises(BadInput, match="is quantised"):
        Patch.attach(model, ["to_q"])


@pytest.mark.parametrize("family", LONG)
def test_more_rows_than_the_tokenizer_was_made_for(family: str, model: Diffusion) -> None:
    with pytest.raises(BadInput, match=f"text_length is {LENGTH + 1}.* was made for {LENGTH} tokens"):
        type(model)(model.pipe, 3, 3.0, 32, text_length=LENGTH + 1)  # type: ignore[call-arg]


@pytest.mark.parametrize("family", LONG)
def test_a_length_that_training_and_drawing_do_not_share(family: str, model: Diffusion, tmp_path: Path) -> None:
    """A model of another length refuses the adapter; a stock pipeline takes it, and the call of another length is
    refused with the word that mends it."""
    stored = kept(type(model)(model.pipe, 3, 3.0, 32, text_length=8))  # type: ignore[call-arg]
    with pytest.raises(BadInput, match=f"with 8 rows of text, and this model reads {LENGTH}; give model.text_length=8"):
        stored.attach(model, force=True)
    stored.write(tmp_path / "adapter")
    small = {"num_inference_steps": 1, "height": 32, "width": 32, "output_type": "latent"}
    small |= {"use_resolution_binning": False} if family == "sana" else {}
    with fade.load(model.pipe, tmp_path / "adapter"):
        model.pipe("A cat", max_sequence_length=8, **small)
        with pytest.raises(BadInput, match="call the pipeline with max_sequence_length=8"):
            model.pipe("A cat", max_sequence_length=LENGTH, **small)
    model.pipe("A cat", max_sequence_length=LENGTH, **small)


@pytest.mark.parametrize("family", LONG)
@pytest.mark.parametrize("form", ["diffusers", "peft", "patch"])
def test_an_export_says_the_length_to_call_the_stock_pipeline_with(
    model: Diffusion, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept(type(model)(model.pipe, 3, 3.0, 32, text_length=8)).write(tmp_path / "adapter")  # type: ignore[call-arg]
    said = 'pipe("...", max_sequence_length=8)'
    with fade.load(model.pipe, tmp_path / "adapter") as handle:
        handle.export(tmp_path / "handles", form)
        export(handle.adapter, tmp_path / "attached", form)
    for place in ("handles", "attached"):
        assert f"\n{said}\n```\n" in (tmp_path / place / "README.md").read_text()
    if form != "patch":  # which needs the base's folder
        assert not main(["export", str(tmp_path / "adapter"), "--to", form, "--out", str(tmp_path / "commands")])
        assert capsys.readouterr().out.rstrip().endswith(f", then {said}")
        assert said in (tmp_path / "commands" / "README.md").read_text()


def test_a_caption_beyond_any_of_the_tokenizers(family: str, model: Diffusion) -> None:
    """CLIP's two ends leave it fewer words than T5's one; FLUX reads CLIP for its pooled vector alone."""
    long = " ".join(["cat"] * 15)
    if family == "flux":
        assert model.texts[0].count(long) == model.texts[0].room == 15
    model.check_prompts(CAPTIONS)
    with pytest.raises(BadInput, match="tokens and the text encoder takes 14; shorten it"):
        model.check_prompts([*CAPTIONS, long])
