"""Judges with somebody's weights, overlapping labels, and the backbones of the distances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import inception_v3
from torchvision.transforms.v2 import functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from benchmarks.measure.features import ClipScore, JudgeFeatures, TorchvisionInception, backbones
from benchmarks.measure.judging import look, read_as
from benchmarks.measure.metrics import frechet
from fade.errors import BadInput
from fade.judges import Judge, accuracy
from fade.pretrain.diffusion import make_tokenizer

LABELS = [f"s{k}" for k in range(5)]
VIT = "test_vit"  # the architecture's small brother of vit_large_patch16_224, with the same names of weights


def checkpoint(path: Path, classes: int = 5, key: str | None = "model_state_dict", architecture: str = VIT) -> dict:
    torch.manual_seed(0)
    state = timm.create_model(architecture, num_classes=classes).state_dict()
    torch.save({key: state, "epoch": 3} if key else state, path)
    return state


def test_unlearncanvas_classifiers(tmp_path: Path) -> None:
    """style50.pth: state dict under model_state_dict, loaded without pickle; resize, no crop, mean and std 0.5."""
    state = checkpoint(tmp_path / "style50.pth")
    size = timm.get_pretrained_cfg(VIT).input_size[-1]
    judge = Judge.pretrained("style", LABELS, VIT, str(tmp_path / "style50.pth"), "model_state_dict", size=size)
    network = timm.create_model(VIT, num_classes=5).eval()
    network.load_state_dict(state)
    pixels = torch.randint(0, 256, (2, 3, 300, 300), dtype=torch.uint8)
    wanted = network((F.resize(pixels, [size, size], antialias=True).float() / 255 - 0.5) / 0.5)
    assert (judge(pixels.float() / 255) - wanted).abs().max() < 0.02  # torchvision rounds to bytes after its resize
    assert judge.accuracy is None and judge.identity != Judge("test_resnet", "style", LABELS, 32).identity
    save_file(state, tmp_path / "same.safetensors")
    again = Judge.pretrained("style", LABELS, VIT, str(tmp_path / "same.safetensors"), size=size)
    assert torch.equal(again(pixels.float() / 255), judge(pixels.float() / 255))


def test_a_thousand_classes_of_which_ten_are_the_labels(tmp_path: Path) -> None:
    checkpoint(tmp_path / "imagenet.pth", 20, None, "test_resnet")
    judge = Judge.pretrained(
        "object",
        ["a", "b"],
        "test_resnet",
        str(tmp_path / "imagenet.pth"),
        size=32,
        mean=[0.4, 0.5, 0.6],
        std=[0.2, 0.2, 0.2],
        crop=0.5,
        classes=[3, 17],
    )
    x = torch.rand(2, 3, 64, 64)
    middle = (x[..., 16:48, 16:48] - torch.tensor([0.4, 0.5, 0.6]).reshape(3, 1, 1)) / 0.2
    assert torch.allclose(judge(x), judge.network(middle)[:, [3, 17]], atol=1e-6)
    judge.accuracy = 0.9
    judge.save(tmp_path / "judge")
    assert torch.equal(Judge.load(tmp_path / "judge")(x), judge(x))


def test_wrong_classifiers_are_one_line(tmp_path: Path) -> None:
    checkpoint(tmp_path / "style60.pth", 60)
    checkpoint(tmp_path / "bare.pth", 5, None)
    (tmp_path / "text.pth").write_text("no")
    torch.save({"model_state_dict": print}, tmp_path / "code.pth")
    for name, key, message in (
        ("style60.pth", "model_state_dict", "has 60 classes, the dataset has 5 styles"),
        ("bare.pth", "model_state_dict", "holds no state dict under 'model_state_dict'"),
        ("text.pth", None, "is no file of tensors"),
        ("code.pth", "model_state_dict", "is no file of tensors"),
        ("none.pth", None, "no classifier at"),
    ):
        with pytest.raises(BadInput, match=message):
            Judge.pretrained("style", LABELS, VIT, str(tmp_path / name), key)
    with pytest.raises(BadInput, match=r"holds no fc\.weight; is it a test_resnet"):
        Judge.pretrained("style", LABELS, "test_resnet", str(tmp_path / "bare.pth"))


def test_overlapping_labels() -> None:
    judge = Judge("test_resnet", "attribute", LABELS, 32, multilabel=True).eval()
    x = torch.rand(6, 3, 32, 32)
    assert torch.allclose(judge.probabilities(x), judge(x).sigmoid())
    truth = (judge.probabilities(x) > judge.probabilities(x).median(0).values).long()
    assert accuracy(judge, x, truth) == pytest.approx(1.0)  # every label's own images come first
    assert accuracy(judge, x, 1 - truth) < 0.7
    p = torch.tensor([0.2, 0.6, 0.9, 0.1, 0.0])
    assert (
        read_as(p, 1, multilabel=True) == 1
        and read_as(p, 0, multilabel=True) == 2
        and read_as(p, 1, multilabel=False) == 2
    )


def test_the_torchvision_backbone(tmp_path: Path) -> None:
    """UnlearnCanvas's preprocessing, against a few lines of its own; and its distance of a set from itself."""
    torch.manual_seed(0)
    network = inception_v3(weights=None, transform_input=True, init_weights=False).eval()
    save_file(network.state_dict(), tmp_path / "inception.safetensors")
    backbone = TorchvisionInception(str(tmp_path / "inception.safetensors"), torch.device("cpu"))
    pixels = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    x = pixels.float() / 255
    for side in (512, 299):
        x = F.resize(x, [side, side], antialias=False)
    network.fc = torch.nn.Identity()  # what precedes it is the average of Mixed_7c
    with torch.no_grad():
        wanted = network(x * 2 - 1)
        assert (backbone(pixels, {}) - wanted).norm() < 1e-4 * wanted.norm()  # random weights leave features of 1e-8
    with pytest.raises(BadInput, match=r"set protocol\.backbones\.torchvision=FILE"):
        backbones(["torchvision"], {}, {}, torch.device("cpu"))
    with pytest.raises(BadInput, match="choose from judge, inception, torchvision"):
        backbones(["vgg"], {}, {}, torch.device("cpu"))


def test_torch_fidelitys_backbone(tmp_path: Path) -> None:
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    kind = fidelity.FeatureExtractorInceptionV3
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:  # the published weights are no part of the repository: random ones
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(kind, "load_state_dict", lambda *_, **__: None)
        torch.save(kind("inception-v3-compat", ["2048"]).state_dict(), tmp_path / "weights.pth")
    weights = {"inception": str(tmp_path / "weights.pth")}
    found = backbones(["inception"], weights, {}, torch.device("cpu"))["inception"]
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert found(pixels, {}).shape == (2, 2048) and torch.equal(found(pixels, {}), found(pixels, {}))


def test_a_set_is_at_no_distance_from_itself() -> None:
    torch.manual_seed(0)
    judges = {"style": Judge("test_resnet", "style", LABELS, 32).eval()}
    pixels = torch.randint(0, 256, (600, 3, 32, 32), dtype=torch.uint8)
    features = JudgeFeatures(judges)(pixels, look(judges, pixels))
    narrow = features[:, :16]
    assert frechet(narrow, narrow) == pytest.approx(0, abs=1e-4)
    assert JudgeFeatures(judges).identity == JudgeFeatures(judges).identity


def test_clip_score_through_a_local_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = make_tokenizer(["a cat in neon style"], 16)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    processor = CLIPProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}), tokenizer
    )
    model.save_pretrained(tmp_path / "clip")
    processor.save_pretrained(tmp_path / "clip")
    pixels = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8)
    prompts = ["a cat", "a cat in neon style", "neon"]
    found = ClipScore(str(tmp_path / "clip"), torch.device("cpu"))(pixels, prompts)
    pictures = [Image.fromarray(np.asarray(x.permute(1, 2, 0))) for x in pixels]
    with torch.no_grad():
        wanted = model(
            **processor(text=prompts, images=pictures, return_tensors="pt", padding=True)
        ).logits_per_image.diagonal()
    assert torch.allclose(found, (100 * wanted / model.logit_scale.exp()).clamp(min=0), atol=1e-3)
    with pytest.raises(BadInput, match="no CLIP model at"):
        ClipScore(str(tmp_path / "none"), torch.device("cpu"))
