"""`quantization=nf4`: what the loader hands to diffusers, and what is refused in one line before anything is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Command, complaint
from configs import hydras
from packing import Packed, packed

import fade
from benchmarks.runs.options import check_options
from fade.errors import BadInput
from fade.models import Diffusion, quantization
from fade.models.flux import Flux
from fade.models.sana import Sana
from fade.models.stable_diffusion_3 import StableDiffusion3
from run import given

FLUX = ["model=flux_dev", "model.quantization=nf4"]
PARTS = {Flux: "text_encoder_2", StableDiffusion3: "text_encoder_3", Sana: "text_encoder"}  # T5, T5, Gemma
ENCODER = pytest.mark.parametrize(("family", "encoder"), PARTS.items(), ids=lambda it: getattr(it, "__name__", it))


def machine(monkeypatch: pytest.MonkeyPatch, installed: bool = True, gpu: bool = True) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda _: object() if installed else None)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu)


@ENCODER
def test_the_network_and_the_language_model_are_packed(
    family: Any, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch)
    seen: dict[str, Any] = {}

    def read(path: str, **how: Any) -> None:
        seen.update(how)
        raise OSError("far enough")

    monkeypatch.setattr(family.pipeline, "from_pretrained", read)
    for kind, wanted in ((None, None), ("nf4", ["transformer", encoder])):
        seen.clear()
        with pytest.raises(BadInput, match="far enough"):
            family.load("nobody/nothing", 2, 1.0, dtype="bfloat16", quantization=kind)
        config = seen.get("quantization_config")
        assert seen["dtype"] == torch.bfloat16 and (config and config.components_to_quantize) == wanted
    assert config.quant_backend == "bitsandbytes_4bit"
    assert config.quant_kwargs == {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": torch.bfloat16,
        "bnb_4bit_use_double_quant": False,
    }


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({"installed": False}, "bitsandbytes, which is not installed: pip install bitsandbytes"),
        ({"gpu": False}, "need a GPU, on which diffusers packs and reads them, and this machine has none; go to one"),
    ],
)
def test_what_is_not_there_is_named(
    there: dict[str, bool], said: str, tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By run.py before anything else, by the loader of what is to be packed, and of a folder that was saved packed."""
    machine(monkeypatch, **there)
    assert said in complaint(run(*FLUX, "target=neon_glow", "model.path=pretrained/nowhere", code=1))
    with pytest.raises(BadInput, match=said):
        Flux.load("nobody/nothing", 2, 1.0, quantization="nf4")
    config = tmp_path / "transformer" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"quantization_config": {"quant_method": "bitsandbytes"}}))
    with pytest.raises(BadInput, match=said):
        Flux.load(str(tmp_path), 2, 1.0)
    config.write_text("{}")
    with pytest.raises(BadInput, match="cannot load the pipeline"):
        Flux.load(str(tmp_path), 2, 1.0)


def test_a_library_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: Any, **__: Any) -> None:
        raise ImportError("Using it requires:\n`pip install -U bitsandbytes`")

    monkeypatch.setattr(Flux.pipeline, "from_pretrained", read)
    with pytest.raises(BadInput, match="nobody/packed: Using it requires: `pip install -U bitsandbytes`"):
        Flux.load("nobody/packed", 2, 1.0)


def test_a_single_file_cannot_be_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    (tmp_path / "flux.safetensors").touch()
    with pytest.raises(BadInput, match=r"flux\.safetensors is a single file, which diffusers cannot pack; give a"):
        Flux.load(str(tmp_path / "flux.safetensors"), 2, 1.0, quantization="nf4")


@pytest.mark.parametrize("option", ["device=cpu", "trainer.accelerator=cpu"])
def test_packed_weights_are_not_trained_on_a_cpu(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    key = option.partition("=")[0]
    with pytest.raises(BadInput, match=f"{key} is cpu, and weights in 4 bits need a GPU; leave {key} away"):
        check_options(given(hydras(*FLUX, option)))
    check_options(given(hydras(*FLUX)))
    check_options(given(hydras("model=flux_dev", option)))


def test_a_plan_asks_for_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, installed=False, gpu=False)
    check_options(given(hydras(*FLUX, "task=plan")))


def test_another_quantization_is_refused() -> None:
    with pytest.raises(BadInput, match=r"model\.quantization is 'int8'; it must be"):
        check_options(given(hydras("model=flux_dev", "model.quantization=int8")))


def test_a_format_without_a_way_back_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes says of each layer whether the CPU has the format; on a GPU it does not come to it."""
    model, _ = packed()
    layers = [layer for layer in model.network.modules() if isinstance(layer, Packed)]
    layers[-1].support_avx512bf16_for_cpu = True  # type: ignore[assignment]
    monkeypatch.setattr(Diffusion, "generate", lambda *_, **__: pytest.fail("images were drawn"))
    with pytest.raises(BadInput, match=r'is in 4 bits on a CPU, where .* no gradient .*first: pipe.to\("cuda"\)'):
        fade.unlearn(model.pipe, "neon", "photo", templates=["A cat in {}"], retain=["A dog in a house"], steps=1)
    assert not fade.attached(model.pipe)
    model.network.to("meta")
    quantization.check_gradients(model.network)
