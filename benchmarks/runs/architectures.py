"""The published architectures without their weights: whole pipelines on the meta device, by the names of conf/model.

What is written here is where a part's public config.json (of Sana: diffusers' conversion scripts) differs from the
defaults of its class. Tokenizers are stand-ins: what a caption becomes has the published shape.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from benchmarks.runs._packed import pack
from fade.errors import BadInput
from fade.models import Diffusion
from fade.published import located, settings

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
CLIP_LENGTH, T5_LENGTH, GEMMA_LENGTH = 77, 512, 8192  # what their tokenizers were made for


def _sampler(kind: type[Any], **config: Any) -> Any:
    """Where its numbers are, which it looks at."""
    with torch.device("cpu"):
        return kind(**config)


def _tokenizer(length: int, begins: bool = True, ends: bool = True) -> PreTrainedTokenizerFast:
    """A word is a token, whatever it is."""
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    places = {token: place for place, token in enumerate(special.values())}
    made = Tokenizer(models.WordLevel(places, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    single = " ".join([*["<bos>"] * begins, "$A", *["<eos>"] * ends])
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=list(places.items()))
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=length, **special)


def _vae(channels: int, scaling: float, shift: float | None, **more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=scaling,
        shift_factor=shift,
        **more,
    )


def _vae_16(scaling: float, shift: float) -> AutoencoderKL:
    return _vae(16, scaling, shift, use_quant_conv=False, use_post_quant_conv=False)


def _clip_l(tokenizer: PreTrainedTokenizerFast, kind: type[CLIPTextModel] = CLIPTextModel) -> CLIPTextModel:
    """OpenAI's CLIP ViT-L/14."""
    shape = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    return kind(CLIPTextConfig(**shape, projection_dim=768, hidden_act="quick_gelu", **_ends(tokenizer)))


def _clip_g(tokenizer: PreTrainedTokenizerFast) -> CLIPTextModelWithProjection:
    """OpenCLIP's ViT-bigG/14."""
    shape = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
    config = CLIPTextConfig(**shape, projection_dim=1280, hidden_act="gelu", **_ends(tokenizer))
    return CLIPTextModelWithProjection(config)


def _ends(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    return {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}


def _t5_xxl() -> T5EncoderModel:
    """T5 v1.1 XXL's encoder."""
    shape = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
    return T5EncoderModel(T5Config(vocab_size=32128, feed_forward_proj="gated-gelu", **shape))


def stable_diffusion() -> StableDiffusionPipeline:
    """1.4 and 1.5."""
    tokenizer = _tokenizer(CLIP_LENGTH)
    return StableDiffusionPipeline(
        _vae(4, 0.18215, None),
        _clip_l(tokenizer),
        tokenizer,
        UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        _sampler(PNDMScheduler, **BETAS, skip_prk_steps=True),
        None,
        None,
        requires_safety_checker=False,
    )


def sdxl() -> StableDiffusionXLPipeline:
    tokenizer = _tokenizer(CLIP_LENGTH)
    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    scheduler = _sampler(EulerDiscreteScheduler, **BETAS, timestep_spacing="leading")
    encoders = _clip_l(tokenizer), _clip_g(tokenizer)
    return StableDiffusionXLPipeline(
        _vae(4, 0.13025, None), *encoders, tokenizer, tokenizer, unet, scheduler, add_watermarker=False
    )


def sd35_medium() -> StableDiffusion3Pipeline:
    clip, t5 = _tokenizer(CLIP_LENGTH), _tokenizer(T5_LENGTH, begins=False)
    transformer = SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=24,
        num_attention_heads=24,
        attention_head_dim=64,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        pos_embed_max_size=384,
        dual_attention_layers=tuple(range(13)),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer,
        _sampler(FlowMatchEulerDiscreteScheduler, shift=3.0),
        _vae_16(1.5305, 0.0609),
        _clip_l(clip, CLIPTextModelWithProjection),
        clip,
        _clip_g(clip),
        clip,
        _t5_xxl(),
        t5,
    )


def flux(dev: bool) -> FluxPipeline:
    clip, t5 = _tokenizer(CLIP_LENGTH), _tokenizer(T5_LENGTH, begins=False)
    scheduler = _sampler(FlowMatchEulerDiscreteScheduler, shift=3.0 if dev else 1.0, use_dynamic_shifting=dev)
    transformer = FluxTransformer2DModel(guidance_embeds=dev)
    return FluxPipeline(scheduler, _vae_16(0.3611, 0.1159), _clip_l(clip), clip, _t5_xxl(), t5, transformer)


def sana(**smaller: int) -> SanaPipeline:
    """1.6 B at 1024 px, which are the class's defaults; `smaller`: of its transformer."""
    each = {
        "block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
        "block_out_channels": (128, 256, 512, 512, 1024, 1024),
        "qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    }
    vae = AutoencoderDC(
        latent_channels=32,
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in each.items()},
        encoder_layers_per_block=(2, 2, 2, 3, 3, 3),
        decoder_layers_per_block=(3,) * 6,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    gemma = Gemma2Model(Gemma2Config())  # Gemma 2 2B is the class's default
    sampler = _sampler(DPMSolverMultistepScheduler, **flow)
    return SanaPipeline(_tokenizer(GEMMA_LENGTH, ends=False), gemma, vae, SanaTransformer2DModel(**smaller), sampler)


SANA_600M = {
    "num_layers": 28,
    "num_attention_heads": 36,
    "num_cross_attention_heads": 16,
    "cross_attention_head_dim": 72,
    "cross_attention_dim": 1152,
}
ARCHITECTURES: dict[str, Callable[[], DiffusionPipeline]] = {  # model.path -> the pipeline
    "CompVis/stable-diffusion-v1-4": stable_diffusion,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": stable_diffusion,
    "stabilityai/stable-diffusion-xl-base-1.0": sdxl,
    "stabilityai/stable-diffusion-3.5-medium": sd35_medium,
    "black-forest-labs/FLUX.1-dev": partial(flux, True),
    "black-forest-labs/FLUX.1-schnell": partial(flux, False),
    "Efficient-Large-Model/Sana_1600M_1024px_diffusers": sana,
    "Efficient-Large-Model/Sana_600M_1024px_diffusers": partial(sana, **SANA_600M),
}


def without_weights(model: dict[str, Any]) -> Diffusion:
    """The model that a file of conf/model describes, on the meta device: every verb gives tensors without values.

    model: the values of the file's `model`. Raises BadInput for a path that is none of ARCHITECTURES.
    """
    given = settings(model)
    own = ("path", "dtype", "gradient_checkpointing", "quantization")
    path, dtype, checkpointing, quantization = (given.pop(key, None) for key in own)
    if path not in ARCHITECTURES:
        raise BadInput(f"no architecture of model.path={path!r} is known without its weights; give a folder of them")
    given.pop("subfolder", None)
    with torch.device("meta"):
        pipe = ARCHITECTURES[path]()
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                nn.Module.to(part, getattr(torch, dtype or "float32"))  # diffusers' own warns of parts that are none
        family = located(model["_target_"].removesuffix(".load"))
        for name in family.quantised if quantization else ():
            pack(getattr(pipe, name))
        if checkpointing:
            getattr(pipe, family.denoiser).enable_gradient_checkpointing()
        found: Diffusion = family(pipe, **given)
    return found
