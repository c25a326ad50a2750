"""Every attack, in a few steps on the tiny model; what each of their searches rests on, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from grids import canvas

from benchmarks.record.attacks import SEEDLESS
from benchmarks.runs.rules import check_node
from fade.attacks import Attack, Counter, Scene
from fade.attacks.benign import Benign
from fade.attacks.bypass import Bypass
from fade.attacks.closed import Closed
from fade.attacks.foreign import Foreign, PutBack
from fade.attacks.inpaint import Inpaint
from fade.attacks.inversion import Inversion, hard
from fade.attacks.mask import Refill, Within
from fade.attacks.memora import Memora
from fade.attacks.numerics import Numerics, pruned, rounded
from fade.attacks.p4d import P4d, among, nearest
from fade.attacks.plain import Plain
from fade.attacks.prefix import Prefix
from fade.attacks.prompts import Prompts, changed
from fade.attacks.recall import Recall
from fade.attacks.relearn import Relearn
from fade.attacks.ring import Ring
from fade.attacks.sampler import Sampler
from fade.attacks.scale import Scale
from fade.attacks.spelling import states, text, tokens, usable
from fade.attacks.tokens import Tokens, _Drawn, onto_simplex
from fade.attacks.trajectory import Completion, Image
from fade.errors import BadInput
from fade.models import Diffusion, Noise
from fade.models.embedding import Embedding
from fade.published import attacks_of, made

SMALL: dict[str, Attack] = {  # what it finds, and how many images its search costs: forward 1, with gradient 3
    "plain": Plain(),
    "prompts": Prompts(["the word twice", "words reversed"]),
    "sampler": Sampler([2.0], [0.5]),
    "bypass": Bypass(),
    "closed": Closed(),
    "inversion": Inversion(images=3, marks=[1, 2], batch=2, pool=4),
    "prefix": Prefix(length=2, marks=[1, 2]),
    "tokens": Tokens(length=2, times=2, steps=1, marks=2),
    "p4d": P4d(length=3, marks=[1, 2]),
    "p4d_k": P4d(every=3, marks=[1, 2]),
    "ring": Ring([1.0], length=3, population=4, generations=2),
    "relearn": Relearn(images=2, marks=[1, 2], batch=2),
    "benign": Benign(images=2, marks=[1, 2], batch=2),
    "numerics": Numerics([3], [0.5]),
    "scale": Scale([0.5]),
    "image": Image([0.5]),
    "inpaint": Inpaint([0.5]),
    "completion": Completion([1]),
    "recall": Recall(times=2, steps=1, marks=2, every=1),
    "memora": Memora(pairs=1, between=1, first=0.5, marks=[1, 2], batch=2, rank=2),
    "foreign": Foreign(images=2, over="lora", marks=[1, 2], batch=2, rank=2),
    "putback": PutBack(images=2, marks=[1, 2], batch=2),
    "refill": Refill(iterations=3),
    "relearn_inside": Within("inside", images=2, marks=[1, 2], batch=2),
    "relearn_lora": Relearn(images=2, over="lora", marks=[1, 2], batch=2, rank=2),
}
BASES = 2 * 2 * 2  # two images of the base, in two steps, guided
COSTS = {"inversion": 12, "prefix": BASES + 12, "tokens": BASES + 12, "p4d": BASES + 16, "p4d_k": BASES + 16}
BEGUN = [name for name in COSTS if name != "inversion"]  # from images of the base
COSTS |= dict.fromkeys(("relearn", "benign", "relearn_lora", "foreign", "putback", "relearn_inside"), 12)
COSTS |= {"recall": 2 * (4 + 12), "memora": 8 + 2 * 2 + 2 * 2 + 12}  # predictions of both halves; pairs, there and back


def test_prompts_say_the_target_as_the_datasets_other_tiers_do(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cells' own captions of the tier, by turns; nothing where the dataset has none."""
    monkeypatch.setattr(type(scene.model), "check_prompts", lambda *_: None)  # long ones, for the tiny tokenizer
    grid, cell = canvas(), {"style": "photo", "object": "house_cat"}
    asked = replace(scene, dataset=grid, cells=[cell] * 3, prompt=grid.caption)
    finds = {find.name: find.says for find in Prompts(["synonym", "description"]).finds(asked)}
    assert grid.language is not None and [*finds] == ["synonym", "description"]
    told = {tier: grid.language.captions(("photo", "house_cat"), tier) for tier in finds}
    assert all(finds[tier] == own[0] and changed(asked, tier) == own[:3] for tier, own in told.items())
    assert "house cat" not in finds["description"] and changed(scene, "synonym") == scene.prompts
    assert [find.name for find in Prompts(["synonym", "upper case"]).finds(scene)] == ["upper case"]


@pytest.mark.parametrize("name", SMALL)
def test_an_attack_finds_what_draws_by_itself_and_is_gone(name: str, scene: Scene) -> None:
    attack, model, noise = SMALL[name], scene.model, [Noise(1), Noise(2)]
    before, plain = model.sha256(), scene.plain(scene.cells, noise)
    if name != "bypass":  # nothing hears the prompt here
        attack.suits(model)
    with scene.counter.on(model):
        first, second = (attack.finds(scene) for _ in range(2))
    assert [f.units for f in first] == sorted(f.units for f in first) and first[-1].units == COSTS.get(name, 0)
    images = [[find.draw(scene.cells, noise) for find in finds] for finds in (first, second)]
    assert all(torch.equal(a, b) for a, b in zip(*images, strict=True))  # the same from the start
    assert all(image.shape == plain.shape for image in images[0])
    same = name in ("plain", "bypass", "scale", "completion", "refill")  # the base is the model here
    assert all(torch.allclose(image, plain, atol=1e-5) == same for image in images[0]) or name == "closed"
    assert model.sha256() == before and torch.equal(scene.plain(scene.cells, noise), plain)
    if attack.optimises:
        off = attack.finds(replace(scene, off=True, counter=Counter()))
        assert {find.units for find in off} == {
            BASES if name in BEGUN else 0
        }  # where it starts from is charged all the same


@pytest.mark.parametrize("name", SMALL)
def test_an_attack_says_whether_the_seed_changes_what_it_finds(name: str, scene: Scene) -> None:
    attack, noise = SMALL[name], [Noise(1), Noise(2)]
    one, other = (attack.finds(replace(scene, seed=seed, shared={}))[-1].draw(scene.cells, noise) for seed in (0, 1))
    assert torch.equal(one, other) is not attack.seeded
    assert (type(attack).__name__ in SEEDLESS) is not attack.seeded  # what the report counts once


@pytest.mark.parametrize("name", ["tokens", "p4d", "p4d_k"])
def test_a_defence_hears_the_tokens_that_were_found(name: str, scene: Scene) -> None:
    """As text, without the concept's name where they stand in its place; told to bypass it, the surrogate's caption."""
    asked: list[str] = []

    def edit(prompts: list[str], found: Embedding) -> Embedding:
        asked.extend(prompt for prompt in prompts if prompt)
        return found

    part = attacks_of(["full"])[name] | {"length": 3, "marks": 1 if name == "tokens" else [1]}
    part |= {"times": 1, "steps": 1} if name == "tokens" else {}
    scene.model.prompts.add(edit, edit)
    noise = [Noise(1), Noise(2)]
    (find,) = made(part).finds(scene)
    asked.clear()
    images = find.draw(scene.cells, noise)
    assert asked[0] == find.says and not set(asked) & {*scene.prompts}
    assert name != "p4d" or "neon" not in find.says
    (other,) = made(part | {"hears": "bypass"}).finds(scene)
    asked.clear()
    spelt = other.draw(scene.cells, noise)
    assert asked == scene.surrogates and torch.allclose(images, spelt, atol=1e-5)  # the encoder sees the same tokens


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        *((name, "marks", []) for name in ("inversion", "prefix", "p4d", "relearn_5", "memora", "relearn_inside")),
        *((name, "marks", [0, 5]) for name in ("inversion", "prefix", "p4d", "benign", "foreign", "putback")),
        ("sampler", "steps", [0]),
        ("sampler", "guidance", [-1.0]),
        ("ring", "eta", []),
        ("closed", "ridges", []),
        ("scale", "scales", []),
        ("image", "strengths", []),
        ("inpaint", "sides", [1.0]),
        ("completion", "first", []),
        ("completion", "first", [0]),
        ("prompts", "names", []),
    ],
)
def test_a_budget_of_nothing_is_refused_before_any_work(name: str, setting: str, value: list[float]) -> None:
    part = attacks_of(["full", "mask"])[name] | {setting: value}
    with pytest.raises(BadInput, match=rf"attack\.{name}\.{setting} is \["):
        check_node(part, f"attack.{name}")
        made(part)


def test_rows_go_to_the_nearest_point_of_the_simplex() -> None:
    """Held against the closed form by sorting (Duchi et al. 2008)."""
    rows = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    ordered = rows.sort(1, descending=True).values
    above = (ordered.cumsum(1) - 1) / torch.arange(1, 8)
    tau = above.gather(1, (ordered > above).sum(1, keepdim=True) - 1)
    assert torch.allclose(onto_simplex(rows), (rows - tau).clamp(min=0), atol=1e-5)


def test_the_gradient_of_a_drawn_token_reaches_its_distribution_clipped() -> None:
    u = torch.full((1, 3), 1 / 3, requires_grad=True)
    drawn = _Drawn.apply(u, torch.tensor([[2]]))
    assert drawn.tolist() == [[0, 0, 1]]
    (drawn * torch.tensor([[5.0, -0.5, -7.0]])).sum().backward()
    assert u.grad.tolist() == [[1.0, -0.5, -1.0]]  # type: ignore[union-attr]
    assert hard([-1, 9, -2], torch.tensor([4, 6])) == [4, 9, 6]


def test_p4d_k_puts_a_token_before_every_third_and_takes_the_nearest_by_cosine() -> None:
    assert among([5, 6, 7, 8], 3) == [-1, 5, 6, 7, -2, 8]
    words = torch.tensor([[1.0, 0.0], [0.0, 9.0], [-1.0, 0.0]])
    assert nearest(torch.tensor([[0.1, 1.0], [3.0, 1.0]]), words, torch.tensor([0, 1])).tolist() == [1, 0]


def test_ring_comes_nearer_to_an_embedding_than_chance_and_knows_it_when_it_is_there(model: Diffusion) -> None:
    ring, g = Ring(population=16, generations=10), torch.Generator().manual_seed(0)
    wanted, own = states(model, ["cat neon"])[0], torch.tensor([tokens(model, "cat neon")])
    people = torch.tensor(usable(model))[torch.randint(0, len(usable(model)), (16, 2), generator=g)]
    chance = ring._distances(model, people, wanted).min()
    found = ring._search(model, wanted, torch.tensor(usable(model)), 2, torch.Generator().manual_seed(0))
    assert ring._distances(model, found[None], wanted) < chance
    assert float(ring._distances(model, own, wanted)) == pytest.approx(0, abs=1e-6)
    only = ring._search(model, wanted, own[0], 2, g)  # of those two words there are four prompts
    assert text(model, only.tolist()) == "cat neon"


def test_weights_are_rounded_and_pruned_by_hand(model: Diffusion) -> None:
    weight = torch.tensor([[3.0, -1.2, 0.4], [0.3, 0.1, -0.2]])
    assert torch.allclose(rounded(weight, 3), torch.tensor([[3.0, -1.0, 0.0], [0.3, 0.1, -0.2]]))
    assert pruned(weight, 0.5).tolist() == [[3.0, pytest.approx(-1.2), pytest.approx(0.4)], [0, 0, 0]]
    model.prompts.add(weight)
    with pytest.raises(BadInput, match="depends on the prompt"):
        Numerics().suits(model)
