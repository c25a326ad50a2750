"""Tiny random pipelines of every family, built from configurations alone: no file, no network."""

from __future__ import annotations

from collections.abc import Callable

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
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from fade.models import Diffusion
from fade.models.families import family_of
from fade.models.sana import INSTRUCTION
from fade.pretrain.diffusion import make_tokenizer
from fade.pretrain.flow import make_t5_tokenizer

CAPTIONS = ["A cat image in neon style.", "A dog image in photo style.", "A fish image in mosaic style."]
LENGTH = 16  # tokens, of every encoder


def _vae(shift: float | None = None, channels: int = 4) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.7,
        shift_factor=shift,
    )


def _clip(kind: type[CLIPTextModel], tokenizer: CLIPTokenizer, width: int, act: str = "quick_gelu") -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        hidden_act=act,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return kind(config)


def _t5(tokenizer: T5Tokenizer, width: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.1)
    )


def sdxl(network: UNet2DConditionModel | None = None, clips: tuple[int, int] = (16, 32)) -> StableDiffusionXLPipeline:
    tokenizer = make_tokenizer(CAPTIONS, LENGTH)
    unet = network or UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        cross_attention_dim=48,
        norm_num_groups=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
    )
    schedule = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    return StableDiffusionXLPipeline(
        _vae(),
        _clip(CLIPTextModel, tokenizer, clips[0]),
        _clip(CLIPTextModelWithProjection, tokenizer, clips[1], "gelu"),
        tokenizer,
        tokenizer,
        unet,
        EulerDiscreteScheduler(**schedule, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )


def sd3(
    network: SD3Transformer2DModel | None = None, clips: tuple[int, int] = (16, 16), text: int = 32, channels: int = 4
) -> StableDiffusion3Pipeline:
    clip, t5 = make_tokenizer(CAPTIONS, LENGTH), make_t5_tokenizer(CAPTIONS, LENGTH)
    transformer = network or SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=4,
        attention_head_dim=8,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        qk_norm="rms_norm",
        dual_attention_layers=(0,),
        pos_embed_max_size=8,
    )
    return StableDiffusion3Pipeline(
        transformer,
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        _vae(0.1, channels),
        _clip(CLIPTextModelWithProjection, clip, clips[0]),
        clip,
        _clip(CLIPTextModelWithProjection, clip, clips[1], "gelu"),
        clip,
        _t5(t5, text),
        t5,
    )


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of the captions, behind a token that begins and with none that ends, as Gemma's."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>"]
    settings = {"vocab_size": 400, "special_tokens": special, "show_progress": False}
    made.train_from_iterator(
        CAPTIONS, trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **settings)
    )
    made.add_tokens(INSTRUCTION[:-1])  # before each caption of Sana's: a thousand letters else
    made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    names = dict(zip(("pad_token", "eos_token", "bos_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=LENGTH, **names)


def sana(network: SanaTransformer2DModel | None = None, text: int = 32, channels: int = 4) -> SanaPipeline:
    tokenizer = gemma_tokenizer()
    gemma = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=text,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    transformer = network or SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=4,
        cross_attention_head_dim=8,
        cross_attention_dim=32,
        caption_channels=32,
        sample_size=8,
    )
    widths = (8, 8, max(16, channels))  # the last is divided among the latent's channels
    each = {"block_types": ("ResBlock",) * 3, "block_out_channels": widths, "layers_per_block": (1, 1, 1)}
    each["qkv_multiscales"] = ((), (), ())
    both = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in each.items()}
    vae = AutoencoderDC(latent_channels=channels, attention_head_dim=8, scaling_factor=0.4, **both)
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    return SanaPipeline(tokenizer, Gemma2Model(gemma), vae, transformer, DPMSolverMultistepScheduler(**flow))


def flux(
    network: FluxTransformer2DModel | None = None, pooled: int = 32, text: int = 32, channels: int = 4
) -> FluxPipeline:
    clip, t5 = make_tokenizer(CAPTIONS, LENGTH), make_t5_tokenizer(CAPTIONS, LENGTH)
    transformer = network or FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=True,
    )
    pipe = FluxPipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        _vae(0.1, channels),
        _clip(CLIPTextModel, clip, pooled),
        clip,
        _t5(t5, text),
        t5,
        transformer,
    )
    pipe.default_sample_size = 8  # 128 in every FluxPipeline
    return pipe


TINY: dict[str, Callable[[], DiffusionPipeline]] = {"sdxl": sdxl, "sd3": sd3, "flux": flux, "sana": sana}


def tiny(name: str) -> Diffusion:
    """32 px images, 8x8 latents of 4 channels."""
    torch.manual_seed(0)
    pipe = TINY[name]()
    return family_of(pipe)(pipe, 3, 3.0, 32)
