"""Every number of every preset, with where it was published: a changed yaml needs a changed row here, and a reason.

Sources are repositories at a commit: ESD rohitgandikota/erasing 25613d2, UCE rohitgandikota/unified-concept-editing
28c81ed, CA nupurkmr9/concept-ablation c11fb1b, SalUn OPTML-Group/Unlearn-Saliency a6e89fd, SPM Con6924/SPM 3dd762e, FMN
SHI-Labs/Forget-Me-Not a4a81e8, SEOT sen-mao/SuppressEOT 69942d6, SHS JingWu321/Scissorhands_ex b2d28a9, EDiff
JingWu321/EraseDiff 14f4e98, LACU SonyResearch/LACU bde26c3, RECE CharlesGong12/RECE 403a67f, SPEED Ouxiang-Li/SPEED
6d3df0c, DQF adobe-research/DiffQuickFixRelease 0bc4794, UC OPTML-Group/UnlearnCanvas 920cfd1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command import ROOT
from configs import composed, hydras
from hydra.utils import instantiate
from omegaconf import OmegaConf

from benchmarks.record.results import Run

CONF = ROOT / "conf"
BOTH_STREAMS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
PATCH = {"/adapter": "patch", "/sparsity": "dense"}
NO_CLIPPING = {"trainer.gradient_clip_val": None}
KEYS_AND_VALUES = {"adapter.targets": [r"attn2\.to_[kv]\.weight"]}
DECAY, NO_DECAY = ({"optimizer.build.lr": None, "optimizer.build.weight_decay": decay} for decay in (1e-2, 0.0))
# file -> (every value that it sets, where the values come from)
CANVAS = {  # of the drawn grid: chosen there, but for lacu's and task_vector's
    "ca": {"optimizer.build.lr": 1e-3},
    "esd": {"pairs.batch": 4, "optimizer.build.lr": 1e-3},
    "ediff": {"optimizer.build.lr": 1e-3},
    "lacu": {"method.sampling_steps": 15, "optimizer.build.lr": 4e-3},
    "shs": {"optimizer.build.lr": 1e-3},
    "fmn": {"optimizer.build.lr": 3e-4},
    "salun": {"optimizer.build.lr": 1e-4},
    "seot": {"method.phrases.style": "{concept} style."},
    "spm": {"pairs.batch": 4, "method.terms.retain": 100.0, "optimizer.build.lr": 1e-2},
    "resalign": {"pairs.batch": 8, "optimizer.build.lr": 2e-3, "trainer.max_steps": 50},
    "task_vector": {"optimizer.build.lr": 3e-4},
    "uce": {"method.tokens": "all", "method.ridge": 50.0},
    "rece": {"method.preserve": 100.0},
    "speed": {"method.tokens": "all", "method.threshold": 3.0},
}
TABLE: dict[str, tuple[dict[str, Any], str]] = {
    # methods
    "method/fade": (
        {"saliency": "forget", "terms.forget": 0.3, "terms.retain": 1.0},
        "arXiv 2602.07058, stage one: the sum of |gradient| of the forget side; FADE's run script: its weights",
    ),
    "method/spare": (
        {
            "/timesteps": "targeted",
            "method.saliency": "forget",
            "method.terms.forget": 0.3,
            "method.terms.retain": 1.0,
            "method.variant": "this project's reading",
        },
        "ours: no code of it is public",
    ),
    "method/fade_uce": (
        {"method.saliency": "forget", "method.start": 50.0, "method.terms.forget": 0.3, "method.terms.retain": 1.0},
        "ours: FADE's, and UCE's ridge on the canvas",
    ),
    "method/fade_robust": (
        {
            "method.start": 200.0,
            "method.radius": 1.0,
            "method.attack_steps": 1,
            "method.saliency": "forget",
            "method.terms.forget": 0.3,
            "method.terms.adversarial": 0.5,
            "method.terms.closed": 1.0,
            "method.terms.retain": 3.0,
            "method.terms.random": 3.0,
            "method.terms.between": 3.0,
            **{f"method.terms.{term}": 0.0 for term in ("around", "empty")},
            "pairs.captions": ["all"],
        },
        "ours: docs/tuning.md",
    ),
    "method/esd": (
        PATCH
        | {
            "adapter.targets": [r"attn2\."],
            "method.variant": "paper",
            "method.eta": None,
            "method.guidance": 3.0,
            "method.sampling_steps": 15,
            "method.terms.forget": 1.0,
        }
        | NO_DECAY
        | NO_CLIPPING,
        "ESD esd_sd.py: esd-x, Adam, guidance_scale 3, no clipping; UC mu_erasing_concept_esd train-esd-style.py: the "
        "same",
    ),
    "method/uce": (
        {
            "/adapter": "matrix",
            "/sparsity": "dense",
            "method.tokens": "all",
            "method.erase": 1.0,
            "method.preserve": 1.0,
            "method.ridge": 0.5,
            "trainer.max_steps": 0,
            "trainer.precision": "32-true",
        }
        | KEYS_AND_VALUES,
        "UCE uce_sd_erase.py: erase_scale 1, preserve_scale 1, lamb 0.5",
    ),
    "method/advunlearn": (
        PATCH
        | {
            "adapter.targets": [r"text_encoder\.(text_model\.)?(encoder|final_layer_norm)\."],
            "method.warmup": 20,
            "method.attack_steps": 5,
            "method.attack_rate": 0.025,
            "method.length": 1,
            "method.eta": 1.0,
            "method.guidance": 3.0,
            "method.sampling_steps": 15,
            "method.terms.forget": 1.0,
            "method.terms.retain": 0.3,
            "pairs.batch": 4,
            "optimizer.build.lr": 1e-3,
            "optimizer.build.weight_decay": 0.0,
        }
        | NO_CLIPPING,
        "ADV AdvUnlearn.py: text_encoder_full, adv_prompt_num 1, start_guidance 3, negative_guidance 1, retain_loss_w "
        "0.3; Adam, unclipped; the budgets and rates are ours, not tuned",
    ),
    "method/diff_quickfix": (
        {
            "/adapter": "patch",
            "/sparsity": "dense",
            "adapter.targets": [r"text_encoder\.(text_model\.)?encoder\.layers\.0\.self_attn\.out_proj\.weight"],
            "method.ridge": 0.01,
            "method.ends": True,
            "method.preserve": 0.0,
            "trainer.max_steps": 0,
            "trainer.precision": "32-true",
        },
        "DQF causal_trace_model_edit.ipynb: self_layer 0, reg 0.01, use_eos 1",
    ),
    "method/rece": (
        {
            "/adapter": "matrix",
            "/sparsity": "dense",
            "method.tokens": "all",
            "method.erase": 1.0,
            "method.preserve": 0.1,
            "method.ridge": 0.1,
            "method.epochs": 1,
            "method.regulariser": 1e-3,
            "trainer.max_steps": 0,
            "trainer.precision": "32-true",
        }
        | KEYS_AND_VALUES,
        "RECE README: lambda_1 = lambda_2 = 0.1; scripts/art.sh: regular_scale 1e-3, epochs 1",
    ),
    "method/speed": (
        {
            "/adapter": "patch",
            "/sparsity": "dense",
            "adapter.targets": [r"attn2\.to_v\.weight"],
            "method.tokens": "last",
            "method.threshold": 0.1,
            "method.ridge": 1.0,
            "method.slack": 0.0,
            "method.filter": True,
            "method.augment": 10,
            "trainer.max_steps": 0,
            "trainer.precision": "32-true",
        },
        "SPEED train_erase_null.py, scripts/eval_few.sh: V 10 1e-1, retain_scale 1.0, lamb 0.0",
    ),
    "method/ca": (
        PATCH
        | KEYS_AND_VALUES
        | DECAY
        | {"method.variant": "paper", "method.prior": True, "method.terms.forget": 1.0, "method.terms.prior": 1.0},
        "CA diffusers/train.py: cross-attn, adam_weight_decay 1e-2, prior_loss_weight 1.0; max_grad_norm 1.0 is the "
        "trainer's",
    ),
    "method/salun": (
        {
            "/adapter": "patch",
            "/sparsity": "weight",
            "adapter.targets": ["."],
            "sparsity.p": 0.5,
            "method.guidance": 7.5,
            "method.terms.forget": 1.0,
            "method.terms.retain": 0.5,
        }
        | NO_DECAY
        | NO_CLIPPING,
        "SalUn SD/README.md: full, alpha 0.5, with_0.5.pt; generate_mask.py: c_guidance 7.5; random_label.py: Adam, "
        "unclipped",
    ),
    "method/spm": (
        {
            "/adapter": "lora",
            "/sparsity": "dense",
            "adapter.rank": 1,
            "adapter.alpha": 1,
            "adapter.targets": [*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"],
            "method.variant": "paper",
            "method.eta": 1.0,
            "method.guidance": 3.0,
            "method.sampling_steps": 15,
            "method.anchors": 4,
            "method.gate_power": None,
            "method.terms.forget": 1.0,
            "method.terms.retain": 1000.0,
        }
        | DECAY
        | NO_CLIPPING,
        "SPM configs/snoopy: rank 1, alpha 1.0, guidance_scale 1.0, la_strength 1000, sampling_batch_size 4; "
        "train_spm.py: guidance_scale=3; src/configs/config.py: max_grad_norm 0.0; AdamW8bit's own weight decay 1e-2",
    ),
    "method/fmn": (
        PATCH | DECAY | {"adapter.targets": [r"attn2\."], "method.end": True, "method.terms.forget": 1.0},
        "FMN configs/attn.yaml: use_pooler true, adam_weight_decay 0.01, max_grad_norm 1.0 (the trainer's); UC: "
        "--only_xa",
    ),
    "method/seot": (
        {"/adapter": "text", "/sparsity": "dense", "trainer.max_steps": 0, "method.phrases": {}},
        "SEOT suppress_eot_w_nulltext.py: soft-weight, alpha 1.0 (conf/adapter/text)",
    ),
    "method/safree": (
        {
            "/adapter": "text",
            "/sparsity": "dense",
            "method.phrases": {},
            "method.alpha": 0.01,
            "method.share": 0.2,
            "method.slope": 70.0,
            "method.midpoint": 0.55,
            "trainer.max_steps": 0,
        },
        "SAFREE generate_safree.py: sf_alpha 0.01, up_t 10 (of 50 steps); modified_stable_diffusion_pipeline.py: f_beta"
        " of artists: t 5.5, k 3.5",
    ),
    "method/ediff": (
        PATCH
        | {
            "adapter.targets": [r"attn2\."],
            "method.step": 0.0,
            "method.passes": 0,
            "method.epoch": 15,
            "method.terms.forget": 0.1,
            "method.terms.retain": 1.0,
        }
        | NO_DECAY
        | NO_CLIPPING,
        "UC mu_erase_diff_ediff/train-erase.py: xattn, alpha 0.1, Adam, unclipped; EDiff erasediff.py: lambda_bome 0.1",
    ),
    "method/shs": (
        PATCH
        | {
            "adapter.targets": ["."],
            "method.variant": "unlearncanvas",
            "method.cut": None,
            "method.batches": None,
            "method.redraw": None,
            "method.cone": False,
            "method.terms.forget": 0.1,
            "method.terms.retain": 1.0,
        }
        | NO_DECAY
        | NO_CLIPPING,
        "UC mu_scissorhands_shs/train-erase.py: full, alpha 0.1, Adam, unclipped, project False; SHS SD/shs_cls.py: "
        "lam 0.1",
    ),
    "method/stereo": (
        PATCH
        | {
            "adapter.targets": [r"attn2\."],
            "method.rounds": 4,
            "method.erase_steps": 50,
            "method.erase_rate": 2.5e-4,
            "method.search_steps": 100,
            "method.search_rate": 0.025,
            "method.batch": 4,
            "method.scale": 2.0,
            "method.guidance": 3.0,
            "method.sampling_steps": 15,
            "method.terms.forget": 1.0,
            "pairs.batch": 4,
            "optimizer.build.lr": 1e-3,
            "optimizer.build.weight_decay": 1e-2,
        }
        | NO_CLIPPING,
        "STEREO koushiksrivats/robust-concept-erasing 86f124f train.py: 4 rounds, both guidance scales 2, AdamW; the "
        "budgets and rates are ours, not tuned",
    ),
    "method/resalign": (
        {
            "/sparsity": "dense",
            "method.loss": "ga",
            "method.eta": 1.0,
            "method.shown": ["retain"],
            "method.tuning_steps": [1, 2, 4],
            "method.rates": [1e-3, 1e-4],
            "method.optimizers": ["gd", "adam"],
            "method.images": 4,
            "method.terms.forget": 1.0,
            "method.terms.resilience": 0.8,
            "method.terms.retain": 1.6,
            "optimizer.build.lr": None,
        },
        "RA scripts/train.sh: loss_mode ga, outer_lambda 0.8, retain_loss_weight 1.6, negative_guidance 1; the steps, "
        "rates and images of fine-tuning are ours",
    ),
    "method/task_vector": (
        PATCH
        | DECAY
        | {"adapter.targets": ["."], "method.alpha": 1.75, "method.captions": "empty", "method.terms.forget": 1.0},
        "TV scripts/save_tv.sh: TV_EDIT_ALPHA 1.75; generate_training_images.py: text ''; train_text_to_image.py: AdamW"
        " with adam_weight_decay 1e-2; scripts/finetune.sh: max_grad_norm 1, the trainer's",
    ),
    "method/lacu": (
        PATCH
        | {
            "/timesteps": "window",
            "adapter.targets": ["attn.*weight"],
            "method.pool": 128,
            "method.sampling_steps": 20,
            "method.mapping_samples": 32,
            "method.related_samples": 16,
            "method.related": 10,
            "method.others": 0,
            "method.latents": "noise",
            "method.mapped": "nearest",
            "method.seed": "${seed}",
            "method.terms.forget": 5.0,
            "method.terms.retain": 25.0,
            "method.terms.stay": 2e-4,
            "optimizer.schedule.warmup": 10,
        }
        | DECAY,
        "LACU train.sh: T_MAX 600, MAP_K 32, RETAIN_K 16, lambdas 5-7, 25, 2e-4, 20 replay steps; train.py: weight "
        "decay 1e-2, max_grad_norm 1.0 is the trainer's",
    ),
    # of the canvas: chosen here (docs/tuning.md), not published
    **{f"tuned/canvas/{name}": (row, "ours") for name, row in CANVAS.items()},
    **{f"tuned/canvas/{name}": ({"optimizer.build.lr": 2e-3}, "docs/tuning.md") for name in ("fade", "spare")},
    "tuned/canvas/fade_robust": ({"trainer.max_steps": 100, "optimizer.build.lr": 2e-3}, "docs/tuning.md"),
    "tuned/canvas/fade_uce": (
        {"trainer.max_steps": 75, "method.terms.retain": 3.0, "optimizer.build.lr": 4e-3},
        "docs/methods.md",
    ),
    # of Stable Diffusion
    "tuned/sd15/ca": (
        {"method.prior": False, "pairs.batch": 8, "optimizer.build.lr": 1.6e-5, "trainer.max_steps": 100},
        "CA diffusers/README.md: learning_rate 2e-6 --scale_lr, train_batch_size 4, 2 GPUs, no "
        "--with_prior_preservation",
    ),
    "tuned/sd15/esd": (
        {
            "method.sampling_steps": 50,
            "pairs.batch": 1,
            "variants.paper.lr": 1e-5,
            "variants.paper.steps": 1000,
            "variants.as_released.lr": 5e-5,
            "variants.as_released.steps": 200,
            "optimizer.build.lr": "${variants.${method.variant}.lr}",
            "trainer.max_steps": "${variants.${method.variant}.steps}",
        },
        "UC train-esd-style.py: lr 1e-5, iterations 1000, ddim_steps 50; ESD esd_sd.py: lr 5e-5, iterations 200",
    ),
    "tuned/sd15/fmn": (
        {"adapter.targets": ["."], "pairs.batch": 1, "optimizer.build.lr": 2e-6, "trainer.max_steps": 35},
        "FMN configs/attn.yaml: only_optimize_ca false, train_batch_size 1, learning_rate 2e-6, max_train_steps 35",
    ),
    "tuned/sd15/lacu": (
        {
            "adapter.targets": ["."],
            "optimizer.build.lr": 5e-5,
            "optimizer.schedule.warmup": 30,
            "trainer.max_steps": 300,
        },
        "LACU train.py: student_unet.parameters(); train.sh: LRS 5e-5, WARMUPS 30, STEPS 250-350",
    ),
    "tuned/sd15/shs": (
        {"method.variant": "as_released", "pairs.batch": 8, "optimizer.build.lr": 1e-5, "trainer.max_steps": 600},
        "SHS SD/shs_cls.py: batch_size 8, lr 1e-5, 5 epochs (of 120 steps: 960 images)",
    ),
    "tuned/sd15/salun": (
        {"pairs.batch": 8, "optimizer.build.lr": 1e-5, "trainer.max_steps": 500},
        "SalUn random_label.py: batch_size 8, lr 1e-5, 5 epochs (of 100 steps: 800 images)",
    ),
    "tuned/sd15/spm": (
        {
            "method.sampling_steps": 30,
            "pairs.batch": 1,
            "optimizer.build.lr": 1e-4,
            "optimizer.schedule.warmup": 500,
            "optimizer.schedule.cosine": True,
            "trainer.max_steps": 3000,
        },
        "SPM configs/snoopy/config.yaml: max_denoising_steps 30, batch_size 1, lr 1e-4, lr_warmup_steps 500, "
        "iterations 3000",
    ),
    "tuned/sd15/advunlearn": (
        {
            "method.warmup": 200,
            "method.attack_steps": 30,
            "method.attack_rate": 0.0025,
            "method.sampling_steps": 50,
            "pairs.batch": 5,
            "optimizer.build.lr": 1e-5,
            "trainer.max_steps": 1000,
        },
        "ADV AdvUnlearn.py: warmup_iter 200, attack_step 30, attack_lr 1e-3 of vectors of length 0.4, ddim_steps 50, "
        "retain_batch 5, lr 1e-5, iterations 1000",
    ),
    "tuned/sd15/resalign": (
        {
            "method.tuning_steps": [5, 10, 20, 30],
            "method.rates": [1e-4, 1e-5, 1e-6],
            "method.images": 1,
            "pairs.batch": 4,
            "optimizer.build.lr": 2e-4,
            "optimizer.schedule.warmup": 0,
            "optimizer.schedule.cosine": False,
            "trainer.max_steps": 160,
        },
        "RA scripts/train.sh: learning_rate 2e-4, num_epochs 160; train.py: AdamW, constant, retain_batch_size 4; "
        "configs/*.json: inner_steps, learning_rate, batch_size 1",
    ),
    "tuned/sd15/task_vector": (
        {"pairs.batch": 4, "optimizer.build.lr": 1e-5, "trainer.max_steps": 200, "trainer.accumulate_grad_batches": 4},
        "TV scripts/finetune.sh: train_batch_size 4, gradient_accumulation_steps 4, learning_rate 1e-5, 200 steps",
    ),
    "tuned/sd15/uce": ({"method.tokens": "last"}, "UCE uce_sd_erase.py: the last token alone"),
    "tuned/sd15_unlearncanvas/esd": (
        {"method.sampling_steps": 50, "pairs.batch": 1, "optimizer.build.lr": 1e-5, "trainer.max_steps": 1000},
        "UC train-esd-style.py: lr 1e-5, iterations 1000, ddim_steps 50, negative_guidance 1",
    ),
    "tuned/sd15_unlearncanvas/ediff": (
        {"method.passes": 2, "method.epoch": 15, "pairs.batch": 4, "optimizer.build.lr": 5e-5, "trainer.max_steps": 75},
        "UC mu_erase_diff_ediff/train-erase.py: K_steps 2, lr 5e-5, batch_size 4, 5 epochs; generate_dataset.py: 60 "
        "images",
    ),
    "tuned/sd15_unlearncanvas/shs": (
        {"method.variant": "unlearncanvas", "pairs.batch": 4, "optimizer.build.lr": 1e-5, "trainer.max_steps": 30},
        "UC mu_scissorhands_shs/train-erase.py: lr 1e-5, batch_size 4, 2 epochs; generate_dataset.py: 60 images",
    ),
    "tuned/sd15_unlearncanvas/fmn": (
        {"pairs.batch": 1, "optimizer.build.lr": 2e-5, "trainer.max_steps": 100},
        "UC mu_forget_me_not_fgm/README.md: --lr 2e-5 --max-steps 100",
    ),
    "tuned/sd15_unlearncanvas/uce": (
        {"method.tokens": "all", "method.erase": 0.05, "method.preserve": 0.1, "method.ridge": 1.0},
        "UC mu_unified_concept_editing_uce/README.md: --erase_scale 0.05 --lamb 1.0; train_erase.py: max(0.1, 1 / "
        "retained)",
    ),
    # the other families
    "tuned/sdxl/esd": (
        {
            "method.variant": "as_released",
            "method.eta": 1.0,
            "method.guidance": 2.0,
            "method.sampling_steps": 50,
            "pairs.batch": 1,
            "optimizer.build.lr": 0.0002,
            "trainer.max_steps": 200,
        },
        "ESD, the script for SDXL: lr 2e-4, 200 steps, batch 1, 50 sampling steps, guidance 2, eta 1",
    ),
    "tuned/sd35_medium/ca": (
        {"adapter.targets": ["attn\\.add_[kv]_proj\\.weight"]},
        "ours: the text's stream for cross-attention",
    ),
    "tuned/sd35_medium/ediff": ({"adapter.targets": ["attn\\.(add_|to_add_out)"]}, "ours"),
    "tuned/sd35_medium/esd": ({"adapter.targets": ["attn\\.(add_|to_add_out)"], "method.sampling_steps": 28}, "ours"),
    "tuned/sd35_medium/shs": ({"method.redraw": ["attn\\.(add_|to_add_out)"]}, "ours"),
    "tuned/sd35_medium/spm": (
        {"adapter.targets": [*BOTH_STREAMS, "net.0.proj", "net.2"], "method.sampling_steps": 28},
        "ours",
    ),
    "tuned/sd35_medium/uce": (
        {
            "adapter.targets": ["^context_embedder\\.weight$", "^time_text_embed\\.text_embedder\\.linear_1\\.weight$"],
            "method.tokens": "last",
        },
        "UCE, authors' FLUX script: context_embedder and the pooled entry, last token",
    ),
    "tuned/flux_dev/ca": ({"adapter.targets": ["attn\\.add_[kv]_proj\\.weight"]}, "ours"),
    "tuned/flux_dev/ediff": ({"adapter.targets": ["attn\\.(add_|to_add_out)"]}, "ours"),
    "tuned/flux_dev/esd": (
        {
            "adapter.targets": ["attn\\."],
            "method.guidance": 3.5,
            "method.sampling_steps": 28,
            "pairs.batch": 1,
            "optimizer.build.lr": 0.0001,
            "trainer.max_steps": 1400,
        },
        "ESD forks for FLUX: attn, lr 1e-4, 1,400 steps of batch 1, 28 steps, x_t at guidance 3.5",
    ),
    "tuned/flux_dev/shs": ({"method.redraw": ["attn\\.(add_|to_add_out)"]}, "ours"),
    "tuned/flux_dev/spm": (
        {"adapter.targets": [*BOTH_STREAMS, "net.0.proj", "net.2"], "method.sampling_steps": 28},
        "ours",
    ),
    "tuned/flux_dev/uce": (
        {
            "adapter.targets": ["^context_embedder\\.weight$", "^time_text_embed\\.text_embedder\\.linear_1\\.weight$"],
            "method.tokens": "last",
        },
        "UCE, authors' FLUX script: context_embedder and the pooled entry, last token",
    ),
    "tuned/canvas_flow/ca": (
        {"adapter.targets": ["attn\\.add_[kv]_proj\\.weight"], "optimizer.build.lr": 0.001},
        "ours",
    ),
    "tuned/canvas_flow/fade": ({"optimizer.build.lr": 0.016}, "ours"),
    "tuned/canvas_flow/spare": ({"optimizer.build.lr": 0.016}, "ours"),
    "tuned/canvas_flow/ediff": ({"adapter.targets": ["attn\\.(add_|to_add_out)"], "optimizer.build.lr": 0.003}, "ours"),
    "tuned/canvas_flow/esd": (
        {"adapter.targets": ["attn\\.(add_|to_add_out)"], "pairs.batch": 4, "optimizer.build.lr": 0.001},
        "ours",
    ),
    "tuned/canvas_flow/lacu": ({"method.sampling_steps": 15, "optimizer.build.lr": 0.004}, "ours"),
    "tuned/canvas_flow/salun": ({"optimizer.build.lr": 0.0003}, "ours"),
    "tuned/canvas_flow/shs": ({"method.redraw": ["attn\\.(add_|to_add_out)"], "optimizer.build.lr": 0.001}, "ours"),
    "tuned/canvas_flow/spm": (
        {
            "adapter.targets": [*BOTH_STREAMS, "net.0.proj", "net.2"],
            "method.terms.retain": 10.0,
            "pairs.batch": 4,
            "optimizer.build.lr": 0.03,
        },
        "ours",
    ),
    "tuned/canvas_flow/uce": (
        {
            "adapter.targets": ["^context_embedder\\.weight$", "^time_text_embed\\.text_embedder\\.linear_1\\.weight$"],
            "method.tokens": "all",
            "method.ridge": 50.0,
        },
        "ours",
    ),
    "tuned/canvas_flow/rece": (
        {"adapter.targets": ["^context_embedder\\.weight$", "^time_text_embed\\.text_embedder\\.linear_1\\.weight$"]},
        "ours: UCE's two",
    ),
    "tuned/canvas_flow/speed": (
        {"adapter.targets": ["^context_embedder\\.weight$"], "method.tokens": "all"},
        "ours: the first of UCE's, which rows are read through",
    ),
    "tuned/sana/uce": (
        {"adapter.targets": ["^caption_projection\\.linear_1\\.weight$"], "method.tokens": "last"},
        "UCE uce_sd_erase.py: the last token alone",
    ),
    "model/sana": (
        {
            "/trainer": "sd",
            "/optimizer": "sd",
            "/adapter": "sd",
            "model.path": "Efficient-Large-Model/Sana_1600M_1024px_diffusers",
            "model.steps": 20,
            "model.guidance": 4.5,
            "model.size": 1024,
            "model.dtype": "bfloat16",
            "model.gradient_checkpointing": True,
            "model.text_length": 300,
            "model.quantization": None,
            "pairs.forget": 240,
            "pairs.retain": 1020,
            "pairs.batch": 4,
        },
        "diffusers' defaults: 20 steps, guidance 4.5, 300 tokens; the rest sd15's",
    ),
    "model/sdxl": (
        {
            "/trainer": "sd",
            "/optimizer": "sd",
            "/adapter": "sd",
            "model.path": "stabilityai/stable-diffusion-xl-base-1.0",
            "model.steps": 50,
            "model.guidance": 5.0,
            "model.size": 1024,
            "model.dtype": "bfloat16",
            "model.gradient_checkpointing": True,
            "pairs.forget": 240,
            "pairs.retain": 1020,
            "pairs.batch": 4,
        },
        "diffusers' defaults: 50 steps, guidance 5, 1024 px; the rest sd15's",
    ),
    "model/sd35_medium": (
        {
            "/trainer": "sd",
            "/optimizer": "sd",
            "/adapter": "sd_both",
            "model.path": "stabilityai/stable-diffusion-3.5-medium",
            "model.steps": 40,
            "model.guidance": 4.5,
            "model.size": 1024,
            "model.dtype": "bfloat16",
            "model.gradient_checkpointing": True,
            "model.text_length": 256,
            "model.quantization": None,
            "pairs.forget": 240,
            "pairs.retain": 1020,
            "pairs.batch": 4,
        },
        "its model card: 40 steps, guidance 4.5; diffusers' DreamBooth LoRA script: the eight projections",
    ),
    "model/flux_dev": (
        {
            "/trainer": "sd",
            "/optimizer": "sd",
            "/adapter": "sd_both",
            "model.path": "black-forest-labs/FLUX.1-dev",
            "model.steps": 50,
            "model.guidance": 3.5,
            "model.size": 512,
            "model.dtype": "bfloat16",
            "model.gradient_checkpointing": True,
            "model.text_length": 512,
            "model.quantization": None,
            "model.told": 3.5,
            "pairs.forget": 240,
            "pairs.retain": 1020,
            "pairs.batch": 1,
        },
        "its model card: 50 steps, guidance 3.5, 512 tokens; diffusers' LoRA script: guidance 3.5",
    ),
    "model/flux_schnell": (
        {
            "/": "flux_dev",
            "model.path": "black-forest-labs/FLUX.1-schnell",
            "model.steps": 4,
            "model.guidance": 0.0,
            "model.text_length": 256,
        },
        "its model card: 4 steps, guidance 0, 256 tokens",
    ),
    "model/canvas_flow": (
        {
            "model.path": "${shipped:canvas_flow/pipeline}",
            "model.steps": 15,
            "model.guidance": 4.0,
            "/adapter": "lora_both",
        },
        "ours",
    ),
    # what several share
    "adapter/lora": ({"rank": 8, "alpha": 8, "dropout": 0.0, "targets": ATTENTION}, "ours"),
    "adapter/sd": ({"rank": 4, "alpha": 4, "dropout": 0.2, "targets": ATTENTION}, "FADE's run script"),
    "adapter/sd_both": (
        {"/": "sd", "targets": BOTH_STREAMS},
        "diffusers train_dreambooth_lora_sd3.py: the eight projections",
    ),
    "adapter/lora_both": ({"/": "lora", "targets": BOTH_STREAMS}, "ours"),
    "adapter/text": ({"strength": 1.0}, "SEOT suppress_eot_w_nulltext.py: alpha 1.0"),
    "adapter/patch": ({"targets": [r"attn2\..*weight"]}, "ours; every method sets its own"),
    "adapter/matrix": ({"targets": [r"attn2\.to_[kv]\.weight"]}, "UCE uce_sd_erase.py: attn2 to_k and to_v"),
    "optimizer/adamw": (
        {
            "build.lr": 4e-3,
            "build.weight_decay": 1e-2,
            "schedule.locate_batch": 16,
            "schedule.warmup": 5,
            "schedule.cosine": True,
        },
        "ours",
    ),
    "optimizer/sd": (
        {
            "build.lr": 1e-4,
            "build.weight_decay": 1e-2,
            "schedule.locate_batch": 4,
            "schedule.warmup": 0,
            "schedule.cosine": False,
        },
        "FADE's run script: AdamW, 1e-4 constant, weight decay 1e-2",
    ),
    "trainer/sd": (
        {"/": "default", "max_steps": 1550, "precision": "bf16-mixed"},
        "FADE's run script: 1,550 steps; autocast is ours",
    ),
    "trainer/default": (
        {
            "max_steps": 100,
            "max_epochs": -1,
            "accelerator": "auto",
            "devices": 1,
            "precision": "32-true",
            "gradient_clip_val": 1.0,
            "accumulate_grad_batches": 1,
            "log_every_n_steps": 10,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "compile": False,
        },
        "FADE's run script: clipping 1.0; the steps are ours",
    ),
    # strategies; CUIG is justinhylee135/CUIG dd22048
    "strategy/duge": ({"attention": 1.0, "replay": 1.0, "bank": 32}, "ours: arXiv 2503.13769 has no public code"),
    "strategy/independent": ({"compose": "sum", "keep": 0.4, "scale": 1.75}, "CUIG's scripts for five and six styles"),
    "strategy/l1sp": ({"power": 1, "weight": 0.5}, "ours; CUIG's 50 is for 19 million weights"),
    "strategy/l2sp": ({"power": 2, "weight": 10.0}, "ours; CUIG's 25,000 is for 19 million weights"),
    "strategy/plain": ({}, ""),
    "strategy/projection": ({"ridge": 1e-6}, "CUIG gradient_projection.py"),
    "strategy/restricted": ({"alpha": 1.5}, "arXiv 2412.07808: 1.5-1.6"),
    "strategy/selft": ({"p": 0.05, "states": 50}, "CUIG's three scripts for Concept Ablation"),
    "strategy/simultaneous": ({}, ""),
    "strategy/stack": ({"avoid": False}, "ours"),
    "timesteps/uniform": ({}, ""),
    "timesteps/targeted": ({"rho": 0.3, "points": 20, "measured_in": "own"}, "ours"),
    "timesteps/targeted_eps": ({"/": "targeted", "measured_in": "eps"}, "ours"),
    "timesteps/targeted_v": ({"/": "targeted", "measured_in": "v"}, "ours"),
    "timesteps/ant": (
        {"low": 0, "high": 919, "outside": False},
        "lileyang1210/ANT 78ce8f3: Multiple/examples/config.yaml",
    ),
    "timesteps/trce": ({"low": 480, "high": 999, "outside": False}, "ddgoodgood/TRCE 0da9b71: config/stage2"),
    "timesteps/kscu": (
        {"start": 14, "steps": 50, "loops": 8, "entries": 750},
        "ChaoShuoZhang/KeyStepConceptUnlearning a8adc01: SD14_CONFIGS, class",
    ),
    "timesteps/switched": (
        {"part": "window", "steps": 15, "examples": 8, "low": 0.1, "high": 0.9},
        "ours: arXiv 2512.08486 asks a judge",
    ),
    "timesteps/switched_complement": ({"/": "switched", "part": "complement"}, "ours"),
    "timesteps/switched_random": ({"/": "switched", "part": "random"}, "ours"),
    "timesteps/window": ({"low": 0, "high": 600, "outside": False}, "arXiv 2512.02657"),
    "sparsity/dense": ({"p": 1.0}, ""),
    "sparsity/module": ({"p": 0.1}, "arXiv 2602.07058"),
    "sparsity/neuron": ({"p": 0.1}, "arXiv 2602.07058"),
    "sparsity/weight": ({"p": 0.1}, "arXiv 2602.07058"),
    "sparsity/random": ({"p": 0.1, "seed": "${seed}", "like": "neuron"}, "ours"),
    "model/sd15": (
        {
            "/trainer": "sd",
            "/optimizer": "sd",
            "/adapter": "sd",
            "model.path": "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "model.steps": 50,
            "model.guidance": 7.5,
            "model.size": 512,
            "model.gradient_checkpointing": False,
            "model.precision": "bfloat16",
            "pairs.forget": 240,
            "pairs.retain": 1020,
            "pairs.batch": 4,
        },
        "FADE's run script: batch 4 at 512 px; autocast while images are made is ours",
    ),
    "model/sd14": ({"/": "sd15", "model.path": "CompVis/stable-diffusion-v1-4"}, ""),
    "model/sd21": ({"/": "sd15", "model.path": "stabilityai/stable-diffusion-2-1", "model.size": 768}, ""),
    "model/sd15_unlearncanvas": (
        {"/": "sd15", "model.path": "???", "model.steps": 100, "model.guidance": 9.0},
        "UC evaluation/sampling_unlearned_models: --steps 100, --cfg-text 9.0",
    ),
    "model/canvas": (
        {
            "oracle": "${shipped:canvas/oracles}",
            "model.path": "${shipped:canvas/pipeline}",
            "model.steps": 15,
            "model.guidance": 4.0,
        },
        "ours",
    ),
    "protocol/unlearncanvas": (
        {
            "/": "default",
            "name": "unlearncanvas",
            "noise": "grid",
            "batch": 8,
            "reading": "authors",
            "photo_prompt": "A {object} image in Seed Images style.",
            "sampling.steps": 100,
            "sampling.guidance": 9.0,
            "sampling.sampler": "DDIMScheduler",
            "sampling.size": 512,
            "sampling.precision": "float16",
            "suffix": "jpg",
        },
        "UC evaluation/sampling_unlearned_models/esd.py: --steps 100, --cfg-text 9.0, --H 512, DDIM, autocast",
    ),
    "protocol/unlearncanvas_diffusers": (
        {
            "/": "unlearncanvas",
            "name": "unlearncanvas_diffusers",
            "noise": "seed",
            "sampling.sampler": "LMSDiscreteScheduler",
        },
        "UC evaluation/sampling_unlearned_models/uce.py",
    ),
    "protocol/unlearncanvas_fmn": (
        {
            "/": "unlearncanvas",
            "name": "unlearncanvas_fmn",
            "sampling.sampler": None,
            "prompt": "A {object} image in {style} style",
            "photo_prompt": None,
            "underscores": True,
        },
        "UC evaluation/sampling_unlearned_models/fmn.py",
    ),
    "protocol/unlearncanvas_ca": (
        {"/": "unlearncanvas", "name": "unlearncanvas_ca", "noise": "steps", "sampling.noise_device": "cuda"},
        "UC evaluation/sampling_unlearned_models/ca.py",
    ),
    "protocol/unlearncanvas_esd": (
        {
            "/": "unlearncanvas",
            "name": "unlearncanvas_esd",
            "noise": "steps",
            "sampling.skip": 1,
            "sampling.noise_device": "cuda",
        },
        "UC evaluation/sampling_unlearned_models/esd.py",
    ),
    "protocol/unlearncanvas_spm": (
        {
            "/": "unlearncanvas_diffusers",
            "name": "unlearncanvas_spm",
            "sampling.noise_device": "cuda",
            "sampling.sampler": None,
            "sampling.guidance": 7.5,
            "sampling.precision": "float32",
            "sampling.negative": "bad anatomy,watermark,extra digit,signature,worst quality,jpeg artifacts,"
            "normal quality,low quality,long neck,lowres,error,blurry,missing fingers,fewer digits,missing "
            "arms,text,cropped,Humpbacked,bad hands,username",
        },
        "UC evaluation/sampling_unlearned_models/spm.py; SPM src/configs/config.py: InferenceConfig.negative_prompt",
    ),
    "protocol/unlearncanvas_subset": (
        {
            "/": "unlearncanvas_diffusers",
            "name": "unlearncanvas_subset",
            "sampling.sampler": "DDIMScheduler",
            "share": 0.25,
        },
        "ours",
    ),
}
GROUPS = (
    "method",
    "tuned/sd15",
    "tuned/sd15_unlearncanvas",
    "tuned/sdxl",
    "tuned/sd35_medium",
    "tuned/flux_dev",
    "tuned/sana",
    "tuned/canvas",
    "tuned/canvas_flow",
    "adapter",
    "optimizer",
    "timesteps",
    "sparsity",
    "strategy",
)


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value; a list is one value, and so is an empty mapping."""
    if not isinstance(node, dict) or not node:
        return {prefix[:-1]: node}
    return {key: value for name, child in node.items() for key, value in flat(child, f"{prefix}{name}.").items()}


def set_by(path: Path) -> dict[str, Any]:
    """Every value that a yaml sets, and under /GROUP which option it takes there ("/": of its own group)."""
    found = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert isinstance(found, dict)
    chosen = {}
    for entry in found.pop("defaults", []):
        if isinstance(entry, dict):
            chosen |= {key.removeprefix("override "): value for key, value in entry.items()}
        elif entry != "_self_":
            chosen["/"] = entry
    values = {key: value for key, value in (flat(found) if found else {}).items() if key.split(".")[-1][0] != "_"}
    return chosen | values


def test_every_preset_has_a_row() -> None:
    files = {f"{group}/{path.stem}" for group in GROUPS for path in (CONF / group).glob("*.yaml")}
    folders = {f"tuned/{path.name}" for path in (CONF / "tuned").iterdir()}
    assert folders <= set(GROUPS) and not files - TABLE.keys(), "add what is new to TABLE, with where it was published"


@pytest.mark.parametrize("name", TABLE)
def test_a_preset_is_what_was_published(name: str) -> None:
    wanted, _ = TABLE[name]
    assert set_by(CONF / f"{name}.yaml") == wanted


# model, method, and more -> rate, weight decay, steps, batch, clipping, precision: what a run has once all is composed
COMPOSED: dict[tuple[str, ...], tuple[Any, ...]] = {
    ("canvas", "fade"): (2e-3, 1e-2, 100, 16, 1.0, "32-true"),
    ("canvas", "spare"): (2e-3, 1e-2, 100, 16, 1.0, "32-true"),
    ("canvas", "fade_uce"): (4e-3, 1e-2, 75, 16, 1.0, "32-true"),
    ("canvas", "fade_robust"): (2e-3, 1e-2, 100, 16, 1.0, "32-true"),
    ("canvas", "ca"): (1e-3, 1e-2, 100, 16, 1.0, "32-true"),
    ("canvas", "esd"): (1e-3, 0.0, 100, 4, None, "32-true"),
    ("canvas", "esd", "method.variant=as_released"): (1e-3, 0.0, 100, 4, None, "32-true"),
    ("canvas", "fmn"): (3e-4, 1e-2, 100, 16, 1.0, "32-true"),
    ("canvas", "salun"): (1e-4, 0.0, 100, 16, None, "32-true"),
    ("canvas", "spm"): (1e-2, 1e-2, 100, 4, None, "32-true"),
    ("canvas", "uce"): (4e-3, 1e-2, 0, 16, 1.0, "32-true"),
    ("canvas", "seot"): (4e-3, 1e-2, 0, 16, 1.0, "32-true"),
    ("canvas", "task_vector"): (3e-4, 1e-2, 100, 16, 1.0, "32-true"),
    ("canvas", "resalign"): (2e-3, 1e-2, 50, 8, 1.0, "32-true"),
    ("sd15", "resalign"): (2e-4, 1e-2, 160, 4, 1.0, "bf16-mixed"),
    ("canvas", "advunlearn"): (1e-3, 0.0, 100, 4, None, "32-true"),
    ("sd15", "advunlearn"): (1e-5, 0.0, 1000, 5, None, "bf16-mixed"),
    ("sd15", "task_vector"): (1e-5, 1e-2, 200, 4, 1.0, "bf16-mixed"),
    ("canvas", "ediff"): (1e-3, 0.0, 100, 16, None, "32-true"),
    ("canvas", "lacu"): (4e-3, 1e-2, 100, 16, 1.0, "32-true"),
    ("canvas", "shs"): (1e-3, 0.0, 100, 16, None, "32-true"),
    ("sd15", "lacu"): (5e-5, 1e-2, 300, 4, 1.0, "bf16-mixed"),
    ("sd15", "shs"): (1e-5, 0.0, 600, 8, None, "bf16-mixed"),
    ("sd15_unlearncanvas", "ediff"): (5e-5, 0.0, 75, 4, None, "bf16-mixed"),
    ("sd15_unlearncanvas", "shs"): (1e-5, 0.0, 30, 4, None, "bf16-mixed"),
    ("sd15", "fade"): (1e-4, 1e-2, 1550, 4, 1.0, "bf16-mixed"),
    ("sd14", "fade"): (1e-4, 1e-2, 1550, 4, 1.0, "bf16-mixed"),
    ("sd21", "fade"): (1e-4, 1e-2, 1550, 4, 1.0, "bf16-mixed"),
    ("sdxl", "fade"): (1e-4, 1e-2, 1550, 4, 1.0, "bf16-mixed"),
    ("sdxl", "esd"): (2e-4, 0.0, 200, 1, None, "bf16-mixed"),
    ("sd35_medium", "fade"): (1e-4, 1e-2, 1550, 4, 1.0, "bf16-mixed"),
    ("flux_dev", "esd"): (1e-4, 0.0, 1400, 1, None, "bf16-mixed"),
    ("flux_schnell", "fade"): (1e-4, 1e-2, 1550, 1, 1.0, "bf16-mixed"),
    ("canvas_flow", "fade"): (1.6e-2, 1e-2, 100, 16, 1.0, "32-true"),
    ("sd15", "ca"): (1.6e-5, 1e-2, 100, 8, 1.0, "bf16-mixed"),
    ("sd15", "esd"): (1e-5, 0.0, 1000, 1, None, "bf16-mixed"),
    ("sd15", "esd", "method.variant=as_released"): (5e-5, 0.0, 200, 1, None, "bf16-mixed"),
    ("sd15", "esd", "method.variant=as_released", "trainer.max_steps=7"): (5e-5, 0.0, 7, 1, None, "bf16-mixed"),
    ("sd15", "fmn"): (2e-6, 1e-2, 35, 1, 1.0, "bf16-mixed"),
    ("sd15", "salun"): (1e-5, 0.0, 500, 8, None, "bf16-mixed"),
    ("sd15", "spm"): (1e-4, 1e-2, 3000, 1, None, "bf16-mixed"),
    ("sd15", "uce"): (1e-4, 1e-2, 0, 4, 1.0, "32-true"),
    ("sd15_unlearncanvas", "esd"): (1e-5, 0.0, 1000, 1, None, "bf16-mixed"),
    ("sd15_unlearncanvas", "fmn"): (2e-5, 1e-2, 100, 1, 1.0, "bf16-mixed"),
    ("sd15_unlearncanvas", "uce"): (1e-4, 1e-2, 0, 4, 1.0, "32-true"),
    ("sd14", "esd"): (None, 0.0, 1550, 4, None, "bf16-mixed"),  # no rate is known: run.py asks for one
}


@pytest.mark.parametrize("case", COMPOSED, ids="-".join)
def test_what_a_run_trains_with(case: tuple[str, ...]) -> None:
    """The method's own wins over the model's trainer and optimizer, and the command line over both."""
    path = ["model.path=nowhere"] if case[0] == "sd15_unlearncanvas" else []
    config = hydras(f"model={case[0]}", f"method={case[1]}", *case[2:], *path)
    build, trainer = config.optimizer.build, config.trainer
    found = (
        build.lr,
        build.weight_decay,
        trainer.max_steps,
        config.pairs.batch,
        trainer.gradient_clip_val,
        trainer.precision,
    )
    assert found == COMPOSED[case]


def test_a_reading_is_not_shown_as_the_papers() -> None:
    variant = instantiate(composed("method=spare").method).variant
    assert Run(Path(), {"method": "spare", "variant": variant}).method == "spare (this project's reading)"


def test_a_variant_sets_what_was_released() -> None:
    """ESD esd_sd.py: negative_guidance 2. SPM infer_spm.py: both factors times gamma. What is given stays."""
    for given, key, wanted in (
        (["method=esd"], "eta", 1.0),
        (["method=esd", "method.variant=as_released"], "eta", 2.0),
        (["method=esd", "method.variant=as_released", "method.eta=0.5"], "eta", 0.5),
        (["method=spm"], "gate_power", 1.0),
        (["method=spm", "method.variant=as_released"], "gate_power", 2.0),
        (["method=spm", "method.variant=as_released", "method.gate_power=0"], "gate_power", 0.0),
    ):
        assert getattr(instantiate(composed(*given).method), key) == wanted, given
