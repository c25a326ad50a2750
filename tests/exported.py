"""What a process without this package makes of an export, beside what it should make."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from adapting import inputs
from safetensors.torch import load_file, save_file

from fade.models import Diffusion, Noise

ALONE = """
import sys
sys.modules["fade"] = None  # an import of it fails from here on
from copy import deepcopy
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
base, asked, out, *forms = sys.argv[1:]
# a mapped file lies unaligned, and kernels round by alignment
given = {k: v.clone() for k, v in load_file(asked).items()}
found = {}
pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None, dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
clean = pipe.unet
for place in forms:
    form, folder = place.split("=", 1)
    pipe.unet = deepcopy(clean)
    if form == "diffusers":
        pipe.load_lora_weights(folder)
    elif form == "peft":
        from peft import PeftModel
        PeftModel.from_pretrained(pipe.unet, folder)
    elif form == "patch":
        missing, strange = pipe.unet.load_state_dict(load_file(folder + "/patch.safetensors"), strict=False)
        assert not strange
    elif form == "pipeline":
        own = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, dtype=torch.float32)
        pipe.unet = own.unet
    elif form == "raw":
        try:
            pipe.load_lora_weights(folder)
        except ValueError:
            continue  # as it should be: the masked file is no LoRA
        raise SystemExit("a stock loader took the raw masked file")
    with torch.no_grad():
        found[place] = pipe.unet(given["z"], given["t"], given["e"]).sample
        how = {"latents": given["latent"], "num_inference_steps": 2, "output_type": "pt"}
        image = pipe("A cat image in neon style.", **how).images
    found[place + " image"] = image
try:
    import fade
    raise SystemExit("fade could be imported")
except ImportError:
    save_file(found, out)
"""


def alone(folder: Path, model: Diffusion, forms: list[str]) -> dict[str, torch.Tensor]:
    """What a process without this package makes of the exports: predictions and an image for each."""
    z, t, embedding = inputs(model)
    save_file({"z": z, "t": t, "e": embedding.tokens, "latent": model.latent(Noise(4))}, folder / "asked.safetensors")
    script = folder / "alone.py"
    script.write_text(ALONE)
    line = [
        sys.executable,
        "-I",
        script,
        folder / "base",
        folder / "asked.safetensors",
        folder / "found.safetensors",
        *forms,
    ]
    done = subprocess.run(line, cwd=folder, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return load_file(folder / "found.safetensors")


@torch.no_grad()
def ours(model: Diffusion) -> tuple[torch.Tensor, torch.Tensor]:
    latent = model.latent(Noise(4))
    image = model.pipe("A cat image in neon style.", latents=latent, num_inference_steps=2, output_type="pt").images
    return model.predict(*inputs(model)), image
