"""Each method's loss, written again: with its own noise, its own sampler, its own teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from loops import STEPS
from torch import Tensor, nn
from torch.func import functional_call

from fade.data.pairs import Batch
from fade.models import Diffusion
from fade.models.embedding import Embedding

Losses = dict[str, Tensor]


# each method's loss, written again: with its own noise, its own sampler, its own teacher


class Formula:
    """The losses of one batch as functions of the live weights; what stands behind a stop-gradient is computed once."""

    def __init__(
        self, model: Diffusion, base: nn.Module, batch: Batch, method: Any = None, empty: Tensor | None = None
    ) -> None:
        self.unet, self.base, self.method, self.model, self.given = model.unet, base, method, model, batch
        self.batch: Any = {
            side: {key: getattr(value, "tokens", value) for key, value in example.items()}  # type: ignore[attr-defined]
            for side, example in batch.items()
        }
        self.empty = model.embed([""]).tokens if empty is None else empty
        self.alphas, self.v = (
            model.pipe.scheduler.alphas_cumprod,
            model.pipe.scheduler.config.prediction_type == "v_prediction",
        )

    def noised(self, side: str) -> tuple[Tensor, Tensor]:
        example: Any = self.batch[side]
        alpha = self.alphas[example["t"]].to(example["latents"])[:, None, None, None]
        return alpha.sqrt() * example["latents"] + (1 - alpha).sqrt() * example["noise"], example["t"]

    def denoising(self, side: str, caption: str = "prompt") -> Tensor:
        z, t = self.noised(side)
        return ((self.unet(z, t, self.batch[side][caption]).sample - self.trained_to(side)) ** 2).mean()

    def trained_to(self, side: str) -> Tensor:
        """What plain training wants: the noise, or the velocity."""
        example: Any = self.batch[side]
        alpha = self.alphas[example["t"]].to(example["latents"])[:, None, None, None]
        velocity = alpha.sqrt() * example["noise"] - (1 - alpha).sqrt() * example["latents"]
        return velocity if self.v else example["noise"]  # type: ignore[no-any-return]

    def sampled(self, unet: nn.Module, c: Tensor, guidance: float = 3.0, least: int = 0) -> tuple[Tensor, int]:
        """DDIM (η = 0) from pure noise to a random step of STEPS, drawn as the methods draw."""
        torch.manual_seed(7)
        stop = int(torch.randint(least, STEPS, (1,)))
        z = torch.randn(len(c), 4, 8, 8, dtype=c.dtype)
        times = self.times(STEPS)
        return self.ddim(unet, z, c, times, stop, guidance), times[stop]

    def times(self, steps: int) -> list[int]:
        """The v-model's are spaced from the end of training, as shipped; the other's from its beginning, one later."""
        return [
            (steps - k) * 1000 // steps - 1 if self.v else 1 + (steps - 1 - k) * 1000 // steps for k in range(steps)
        ]

    @torch.no_grad()
    def ddim(self, unet: nn.Module, z: Tensor, c: Tensor, times: list[int], stop: int, guidance: float) -> Tensor:
        for t in times[:stop]:
            found = unet(z, t, c).sample
            if guidance != 1:
                empty = unet(z, t, self.empty.expand_as(c)).sample
                found = empty + guidance * (found - empty)
            before = t - 1000 // len(times)
            now, then = self.alphas[t].to(z), self.alphas[before].to(z) if before >= 0 else torch.ones(()).to(z)
            x_0, ε = (z - (1 - now).sqrt() * found) / now.sqrt(), found
            if self.v:
                x_0, ε = now.sqrt() * z - (1 - now).sqrt() * found, now.sqrt() * found + (1 - now).sqrt() * z
            z = then.sqrt() * x_0 + (1 - then).sqrt() * ε
        return z

    def distance(self, z: Tensor, t: Any, c: Tensor, wanted: Tensor) -> Tensor:
        return ((self.unet(z, t, c).sample - wanted.detach()) ** 2).mean()

    def fade(self) -> Callable[[], Losses]:
        (z, t), (z_r, t_r) = self.noised("forget"), self.noised("retain")
        forget, retain = self.batch["forget"], self.batch["retain"]
        wanted, kept = self.base(z, t, forget["surrogate"]).sample, self.base(z_r, t_r, retain["prompt"]).sample
        return lambda: {
            "forget": self.distance(z, t, forget["prompt"], wanted),
            "retain": self.distance(z_r, t_r, retain["prompt"], kept),
        }

    def fade_robust(self) -> Callable[[], Losses]:
        """A batch of two: each term of what is kept elsewhere has one image, by turns. The worst embedding is behind a
        stop-gradient; everything is drawn as the method draws."""
        torch.manual_seed(7)
        ρ, steps = self.method.radius, self.method.attack_steps
        (z, t), (z_r, t_r) = self.noised("forget"), self.noised("retain")
        forget, retain = self.batch["forget"], self.batch["retain"]
        worst = forget["prompt"] + self.on_sphere(forget["prompt"], ρ)
        for _ in range(steps):
            at = worst.clone().requires_grad_(True)
            forget["worst"] = at
            slope = torch.autograd.grad(self.denoising("forget", "worst"), at)[0]
            lengths = ρ * forget["prompt"].norm(dim=2, keepdim=True)
            stride = 1.25 if steps == 1 else 2.5 / steps
            δ = worst - stride * lengths * slope / slope.norm(dim=2, keepdim=True) - forget["prompt"]
            worst = forget["prompt"] + δ * torch.minimum(lengths / δ.norm(dim=2, keepdim=True), torch.ones(()))
        # steps along unit gradients magnify what two orders of the same sums differ by: near, and then the same
        torch.manual_seed(7)
        found = self.method.worst(self.model, self.given["forget"]).tokens
        assert (found - worst).norm() < 0.05 * (worst - forget["prompt"]).norm()
        worst = found
        back = self.found_again(forget["prompt"], 10 ** float(torch.empty(()).uniform_(-4, 0)))
        c = retain["prompt"]
        around = c[:1] + self.on_sphere(c[:1], ρ)
        drawn = self.method.random.tokens[torch.randint(len(self.method.random), (1,))]
        share = torch.rand(1, dtype=c.dtype)
        terms = {
            "forget": (z, t, forget["prompt"], forget["surrogate"]),
            "adversarial": (z, t, worst, forget["surrogate"]),
            "closed": (z, t, back, forget["surrogate"]),
            "retain": (z_r, t_r, c, c),
            "around": (z_r[:1], t_r[:1], around, around),
            "random": (z_r[1:], t_r[1:], drawn, drawn),
            "between": (z_r[:1], t_r[:1], *[(1 - share) * c[:1] + share * c[1:]] * 2),
            "empty": (z_r[1:], t_r[1:], self.empty, self.empty),
        }
        wanted = {name: self.base(z, t, known).sample for name, (z, t, _, known) in terms.items()}
        return lambda: {name: self.distance(z, t, own, wanted[name]) for name, (z, t, own, _) in terms.items()}

    def found_again(self, c: Tensor, ridge: float) -> Tensor:
        """argmin_e of the sum of |W' e - W c|^2 over keys and values and of λ|e|^2, a row at a time, by least squares.
        Weights are what the layers make of the unit vectors."""
        unit, base = torch.eye(c.shape[2], dtype=c.dtype), dict(self.base.named_modules())
        read = [(m, base[n]) for n, m in self.unet.named_modules() if n.endswith(("attn2.to_k", "attn2.to_v"))]
        edited = torch.cat([*(own(unit).detach().T for own, _ in read), ridge**0.5 * unit])
        rows = c.flatten(0, 1)
        said = torch.cat([*(rows @ before(unit) for _, before in read), torch.zeros_like(rows)], dim=1)
        return torch.linalg.lstsq(edited, said.T).solution.T.reshape(c.shape)

    def on_sphere(self, c: Tensor, ρ: float) -> Tensor:
        """Each row's own random direction, ρ lengths of the row long."""
        direction = torch.randn_like(c)
        return direction * ρ * c.norm(dim=2, keepdim=True) / direction.norm(dim=2, keepdim=True)

    def ca(self, teacher: nn.Module, prior: bool = True) -> Callable[[], Losses]:
        z, t = self.noised("anchor")
        anchor = self.batch["anchor"]
        wanted = teacher(z, t, anchor["surrogate"]).sample
        return lambda: {
            "forget": self.distance(z, t, anchor["prompt"], wanted),
            **({"prior": self.denoising("anchor", "surrogate")} if prior else {}),
        }

    def pseudo(self) -> Callable[[], Losses]:
        """SalUn's, EraseDiff's, UnlearnCanvas's ScissorHands': the live model under the surrogate caption, detached,
        and plain denoising."""
        z, t = self.noised("forget")
        forget = self.batch["forget"]
        wanted = self.unet(z, t, forget["surrogate"]).sample
        return lambda: {"forget": self.distance(z, t, forget["prompt"], wanted), "retain": self.denoising("retain")}

    def esd(self, sampler: nn.Module, centred_on_empty: bool, η: float) -> Callable[[], Losses]:
        c = self.batch["forget"]["prompt"]
        z, t = self.sampled(sampler, c)
        given, empty = self.base(z, t, c).sample, self.base(z, t, self.empty.expand_as(c)).sample
        wanted = (empty if centred_on_empty else given) - η * (given - empty)
        return lambda: {"forget": self.distance(z, t, c, wanted)}

    def advunlearn(self) -> Callable[[], Losses]:
        """Without an attack: the student is the untouched U-Net under what the live text encoder says."""
        forget, retain = self.batch["forget"], self.batch["retain"]
        c, n = torch.cat([forget["prompt"], retain["prompt"]]), len(forget["prompt"])
        z, t = self.sampled(self.base, c)
        given, empty = self.base(z[:n], t, c[:n]).sample, self.base(z[:n], t, self.empty.expand_as(c[:n])).sample
        kept = self.base(z[n:], t, c[n:]).sample
        return lambda: {
            "forget": self.distance(z[:n], t, self.read(forget), empty - 1.0 * (given - empty)),
            "retain": self.distance(z[n:], t, self.read(retain), kept),
        }

    def read(self, example: Any) -> Tensor:
        """The captions of an example, by the text encoder as it is now."""
        tokenizer = self.model.pipe.tokenizer
        texts = [self.method.texts[row] for row in example["row"]]
        ids = tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")
        return self.model.text_encoder(ids.input_ids)[0]  # type: ignore[no-any-return, operator]

    def stereo(self) -> Callable[[], Losses]:
        """Robustly erasing once, with two tokens found: +1 on an anchor, -3 on the mean of all three, of s = 2."""
        own, s = self.method.own, 2.0
        self.method.found = [Embedding(own.tokens.roll(1, 2)), Embedding(-own.tokens)]
        torch.manual_seed(7)
        stop, a = int(torch.randint(1, STEPS - 1, (1,))), self.batch["retain"]["prompt"]
        which = torch.randint(len(own), (len(a),))
        concepts = [each.tokens[which] for each in (own, *self.method.found)]
        c = concepts[int(torch.randint(3, (1,)))]
        times, start = self.times(STEPS), torch.randn(len(c), 4, 8, 8, dtype=c.dtype)
        z, t = self.ddim(self.unet, start, c, times, stop, 3.0), times[stop]
        empty = self.base(z, t, self.empty.expand_as(c)).sample
        known = sum(self.base(z, t, each).sample for each in concepts) / 3
        wanted = empty + (s - 1) * (self.base(z, t, a).sample - empty) + (-s - 1) * (known - empty)
        return lambda: {"forget": self.distance(z, t, c, wanted)}

    def resalign(self, esd: bool = False) -> Callable[[], Losses]:
        """Two steps of fine-tuning at 0.1, on two images each, drawn as the method draws; how far they go is held."""
        (z, t), (z_r, t_r) = self.noised("forget"), self.noised("retain")
        forget, r, sign = self.batch["forget"], self.batch["retain"]["prompt"], 1 if esd else -1
        c, wanted = forget["prompt"], self.trained_to("forget")
        if esd:
            captions = (forget["surrogate"], c, self.empty.expand_as(c))
            instead, own, empty = (self.base(z, t, caption).sample for caption in captions)
            wanted = instead - self.method.eta * (own - empty)
        kept = self.base(z_r, t_r, r).sample
        live = {name: p for name, p in self.unet.named_parameters() if p.requires_grad}

        def said(change: dict[str, Tensor], *asked: Any) -> Tensor:
            return functional_call(self.unet, {name: p + change[name] for name, p in live.items()}, asked).sample

        far = {name: torch.zeros_like(p) for name, p in live.items()}
        torch.manual_seed(7)
        side = self.method.shown[int(torch.randint(len(self.method.shown), (1,)))]
        torch.randint(1, (3,))  # of steps, optimizers and rates there is one each
        for _ in range(2):
            shown = self.batch["shown"] = self.shown(side)
            x_t, times = self.noised("shown")
            apart = ((said(far, x_t, times, shown["caption"]) - self.trained_to("shown")) ** 2).mean()
            slopes = torch.autograd.grad(apart, list(live.values()))
            far = {name: there - 0.1 * slope for (name, there), slope in zip(far.items(), slopes, strict=True)}

        def loss() -> Losses:
            here, there = self.distance(z, t, c, wanted), ((said(far, z, t, c) - wanted.detach()) ** 2).mean()
            kept_at = self.distance(z_r, t_r, r, kept)
            return {"forget": sign * here, "resilience": sign * (there - here), "retain": kept_at}

        return loss

    def shown(self, side: str) -> dict[str, Tensor]:
        """Two images of a side, as a method that holds `pairs` draws them."""
        batch = self.method.pairs.draw(torch.Generator().manual_seed(int(torch.randint(2**31, (1,)))))
        like, own = batch["forget"]["latents"], slice(0, 2) if side == "forget" else slice(2, 4)
        t, noise = torch.randint(0, 1000, (4,))[own], torch.randn(4, *like.shape[1:], dtype=like.dtype)[own]
        torch.randint(0, 1000, (2,))  # the anchor's
        torch.randn_like(like)
        return {"latents": batch[side]["latents"], "caption": batch[side]["prompt"].tokens, "t": t, "noise": noise}

    def spm(self, released: bool = False) -> Callable[[], Losses]:
        """As released, two of four anchors are the empty prompt."""
        c = self.batch["forget"]["prompt"]
        z, t = self.sampled(self.unet, c, least=int(released))
        blank = [self.empty] * 2 if released else []
        others = torch.cat(blank + [self.anchor(c[:1]) for _ in range(4 - len(blank))])
        given, empty = self.base(z, t, c).sample, self.base(z, t, self.empty.expand_as(c)).sample
        same = z[:1].expand(4, -1, -1, -1)
        kept = self.base(same, t, others).sample
        return lambda: {
            "forget": self.distance(z, t, c, empty - 1.0 * (given - empty)),
            "retain": self.distance(same, t, others, kept),
        }

    def anchor(self, c: Tensor) -> Tensor:
        """A Gaussian embedding of 0.8 to 1.2 times the norm of c (1, L, D), drawn as the method draws."""
        while True:
            noise = torch.randn_like(c)
            drawn = noise * (c.square().sum() / noise.square().sum()).sqrt() * (0.8 + 0.4 * torch.rand(1))
            cosine = (drawn * c).sum() / (drawn.square().sum() * c.square().sum()).sqrt()
            if torch.rand(1) < 1 - cosine:
                return drawn

    def lacu(self) -> Callable[[], Losses]:
        """On the pools that `prepare` made, drawn as the method draws; θ_before is the untouched model's."""
        torch.manual_seed(7)
        drawn = [torch.randint(0, self.method.pool, (len(self.batch["forget"]["t"]),)) for _ in range(2)]
        pools = {"forget": self.method.forget, "retain": self.method.retain}
        terms = {}
        for (side, pool), rows in zip(pools.items(), drawn, strict=True):
            example: Any = self.batch[side]
            alpha = self.alphas[example["t"]].to(pool[0])[:, None, None, None]
            z = alpha.sqrt() * pool[0][rows] + (1 - alpha).sqrt() * example["noise"]
            wanted = self.base(z, example["t"], pool[-1][rows].tokens).sample
            terms[side] = (z, example["t"], pool[1][rows].tokens, wanted)
        before = dict(self.base.named_parameters())

        def loss() -> Losses:
            live = {n: p for n, p in self.unet.named_parameters() if ".attn1." in n or ".attn2." in n}
            moved = sum(((p - before[n]) ** 2).sum() for n, p in live.items() if n.endswith("weight"))
            return {**{side: self.distance(*term) for side, term in terms.items()}, "stay": moved}

        return loss

    def shs(self) -> Callable[[], Losses]:
        """The authors': loss_r − λ loss_u, both the plain loss of training."""
        return lambda: {"forget": -self.denoising("forget"), "retain": self.denoising("retain")}

    def learning(self, without_caption: bool) -> Callable[[], Losses]:
        """A task vector's: the concept's images, shown under the empty caption or under their own."""
        forget = self.batch["forget"]
        forget["shown"] = self.empty.expand_as(forget["prompt"]) if without_caption else forget["prompt"]
        return lambda: {"forget": self.denoising("forget", "shown")}

    def fmn(self, end: bool) -> Callable[[], Losses]:
        z, t = self.noised("forget")
        forget = self.batch["forget"]
        tokens = forget["concept"].clone()
        for row, place in enumerate(forget["end"].tolist() if end else []):
            tokens[row, place:] = True

        def loss() -> Losses:
            with seen_by_cross_attention(self.unet) as seen:
                self.unet(z, t, forget["prompt"])
            total = torch.zeros((), dtype=z.dtype)
            for layer, hidden, context in seen:
                q, k = (
                    x.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
                    for x in (layer.to_q(hidden), layer.to_k(context))
                )
                a = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1)  # (B, heads, h·w, L)
                for row, places in enumerate(tokens):
                    total = total + (a[row, :, :, places] ** 2).sum()
            return {"forget": (total / len(tokens)).sqrt()}

        return loss


@contextmanager
def seen_by_cross_attention(unet: nn.Module) -> Iterator[list[tuple[Any, Tensor, Tensor]]]:
    """Each attn2 layer with its hidden states and its context."""
    seen: list[tuple[Any, Tensor, Tensor]] = []

    def hook(layer: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        seen.append((layer, args[0], given["encoder_hidden_states"]))

    handles = [
        m.register_forward_pre_hook(hook, with_kwargs=True) for n, m in unet.named_modules() if n.endswith("attn2")
    ]
    yield seen
    for handle in handles:
        handle.remove()
