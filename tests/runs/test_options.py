"""Types and ranges of every value are checked once, before any work: one line with the value's full name."""

from __future__ import annotations

import pytest
from command import ROOT
from configs import composed, hydras

from benchmarks.runs.options import check_options
from fade.errors import BadInput
from run import given

WRONG = [
    ("target=null", "target is null; it must be text"),
    ("target=5", "target is 5; it must be text, not empty, a number in quotes"),
    ("target=", "target is ''; it must be text, not empty"),
    ("surrogate=5", "surrogate is 5; it must be text"),
    ("sparsity.p=abc", "sparsity.p is 'abc'; it must be a number, above 0 and at most 1"),
    ("sparsity.p=nan", "sparsity.p is nan; it must be a number"),
    ("sparsity.p=0", "sparsity.p is 0; it must be a number, above 0"),
    ("sparsity.p=true", "sparsity.p is True; it must be a number"),
    ("optimizer.build.lr=-1", "optimizer.build.lr is -1; it must be a number, above 0"),
    ("optimizer.build.lr=nan", "optimizer.build.lr is nan; it must be a number, above 0"),
    ("optimizer.build.lr=inf", "optimizer.build.lr is inf; it must be a number, above 0"),
    ("optimizer.build.lr=fast", "optimizer.build.lr is 'fast'; it must be a number, above 0"),
    ("optimizer.build.weight_decay=-1", "optimizer.build.weight_decay is -1; it must be a number, 0 or more"),
    ("+optimizer.build.betas=[0.9,x]", "optimizer.build.betas is [0.9, 'x']; it must be a list of numbers"),
    ("optimizer.schedule.warmup=-1", "optimizer.schedule.warmup is -1; it must be a whole number, 0 or more"),
    ("optimizer.schedule.locate_batch=0", "optimizer.schedule.locate_batch is 0; it must be a whole number, 1 or more"),
    ("optimizer.schedule.cosine=1", "optimizer.schedule.cosine is 1; it must be true or false"),
    ("trainer.max_steps=-1", "trainer.max_steps is -1; it must be a whole number, 0 or more"),
    ("trainer.max_steps=1.5", "trainer.max_steps is 1.5; it must be a whole number"),
    ("trainer.max_steps=ten", "trainer.max_steps is 'ten'; it must be a whole number"),
    ("trainer.precision=foo", "trainer.precision is 'foo'; it must be one of 64, 32, 16 or one of transformer-engine"),
    ("trainer.devices=999", "trainer.devices is 999, and this machine has"),
    ("trainer.devices=0", "trainer.devices is 0; it must be a whole number, 1 or more"),
    ("trainer.devices=two", "trainer.devices is 'two'; it must be a whole number, 1 or more"),
    ("trainer.accelerator=foo", "trainer.accelerator is 'foo'; choose auto, cpu, gpu"),
    ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val is -1; it must be a number, above 0 or null"),
    ("trainer.gradient_clip_val=0", "trainer.gradient_clip_val is 0; it must be a number, above 0 or null"),
    ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches is 0; it must be a whole number, 1 or more"),
    ("trainer.enable_progress_bar=maybe", "trainer.enable_progress_bar is 'maybe'; it must be true or false"),
    ("seed=-1", "seed is -1; it must be a whole number, from 0 to 4294967295"),
    ("seed=abc", "seed is 'abc'; it must be a whole number"),
    ("seed=1.5", "seed is 1.5; it must be a whole number"),
    ("seed=99999999999999999999", "seed is 99999999999999999999; it must be a whole number, from 0 to 4294967295"),
    ("protocol.seeds=[]", "protocol.seeds is []; it must be a list of whole numbers"),
    ("protocol.seeds=188", "protocol.seeds is 188; it must be a list of whole numbers"),
    ("protocol.seeds=[-1]", "protocol.seeds is [-1]; it must be a list of whole numbers"),
    ("protocol.share=2", "protocol.share is 2; it must be a number, above 0 and at most 1"),
    ("protocol.batch=0", "protocol.batch is 0; it must be a whole number, 1 or more"),
    ("protocol.sampling.size=0", "protocol.sampling.size is 0; it must be a whole number, 1 or more"),
    ("protocol.sampling.steps=0", "protocol.sampling.steps is 0; it must be a whole number, 1 or more"),
    (
        "protocol.sampling.precision=float64",
        "protocol.sampling.precision is 'float64'; it must be one of float32, float16, bfloat16 or null",
    ),
    ("protocol.prompt=5", "protocol.prompt is 5; it must be text"),
    ("protocol.judge_floor=90", "protocol.judge_floor is 90; it must be a number, from 0 to 1"),
    ("protocol.fid=judge", "protocol.fid is 'judge'; it must be a list of text"),
    ("pairs.forget=-1", "pairs.forget is -1; it must be a whole number, 1 or more"),
    ("pairs.retain=many", "pairs.retain is 'many'; it must be a whole number, 1 or more"),
    ("pairs.batch=0", "pairs.batch is 0; it must be a whole number, 1 or more"),
    ("model.steps=0", "model.steps is 0; it must be a whole number, 1 or more"),
    ("model.guidance=nan", "model.guidance is nan; it must be a number"),
    ("model.path=5", "model.path is 5; it must be text"),
    ("+model.dtype=int8", "model.dtype is 'int8'; it must be one of float32, float16, bfloat16"),
    ("dataset.train=-1", "dataset.train is -1; it must be a whole number, 0 or more"),
    ("dataset.train=x", "dataset.train is 'x'; it must be a whole number, 0 or more"),
    ("device=tpu", "device is 'tpu'; choose auto, cpu, cuda, cuda:N or mps"),
    ("device=cuda:77", "device is 'cuda:77', and this machine has"),
    ("device=null", "device is null; it must be text"),
    ("checkpoint_every=0", "checkpoint_every is 0; it must be a whole number, 1 or more"),
    ("output_dir=/dev/null", "output_dir is '/dev/null', and /dev/null is no folder"),
    ("cache_dir=run.py", "cache_dir is 'run.py', and "),
    ("cache_dir=run.py/deep", "run.py is no folder; name another"),
    ("out=5", "out is 5; it must be text"),
    ("method=shs method.cut=x", "method.cut is 'x'; it must be a number"),
    ("method=fade method.saliency=1", "method.saliency is 1; it must be text"),
    ("method=esd method.eta=nan", "method.eta is nan; it must be a number"),
    ("method=fmn method.end=3", "method.end is 3; it must be true or false"),
    ("adapter.rank=0", "adapter.rank is 0; it must be a whole number, 1 or more"),
    ("adapter.rank=2.5", "adapter.rank is 2.5; it must be a whole number"),
    ("adapter.alpha=nan", "adapter.alpha is nan; it must be a number, above 0"),
    ("adapter.alpha=0", "adapter.alpha is 0; it must be a number, above 0"),
    ("adapter.dropout=1.5", "adapter.dropout is 1.5; it must be a number, 0 or more and below 1"),
    ("adapter.targets=to_q", "adapter.targets is 'to_q'; it must be a list of text"),
    ("method.terms.forget=-1", "method.terms.forget is -1; it must be a number, 0 or more"),
    ("method.terms.forget=nan", "method.terms.forget is nan; it must be a number, 0 or more"),
    ("method.terms.forget=null", "method.terms.forget is null; it must be a number, 0 or more"),
    ("timesteps=targeted timesteps.rho=2", "timesteps.rho is 2; it must be a number, from 0 to 1"),
    ("timesteps=targeted timesteps.points=1", "timesteps.points is 1; it must be a whole number, 2 or more"),
    ("timesteps=window timesteps.low=-1", "timesteps.low is -1; it must be a whole number, 0 or more"),
    ("strategy=l2sp strategy.weight=nan", "strategy.weight is nan; it must be a number, 0 or more"),
    ("strategy=independent strategy.keep=0", "strategy.keep is 0; it must be a number, above 0 and at most 1"),
    ("strategy=duge strategy.bank=0", "strategy.bank is 0; it must be a whole number, 1 or more"),
    ("sequence=canvas_10 sequence.requests=5", "sequence.requests is 5; it must be a list of text"),
    ("sequence=canvas_10 sequence.requests=[]", "sequence.requests is []; it must be a list of text"),
    (
        "sequence=canvas_10 within=house_cat",
        "within asks a model about one target, which a sequence does not; leave within",
    ),
    ("task=score oracle=x", "oracle asks a model about one target, which task=score does not; leave oracle away"),
    ("task=score protocol.tiers=[name]", "protocol.tiers asks a model about one target, which task=score does not"),
    ("protocol.tiers=name", "protocol.tiers is 'name'; it must be a list of text or null"),
    ("protocol.tier_seeds=[-1]", "protocol.tier_seeds is [-1]; it must be a list of whole numbers"),
    ("pairs.captions=name", "pairs.captions is 'name'; it must be"),
    ("pairs.seen=0", "pairs.seen is 0; it must be a number, above 0 and at most 1"),
    ("sequence=canvas_10 sequence.revoke=3", "sequence.revoke is 3; it must be a list of whole numbers"),
    ("pretrain.size=7", "pretrain.size is 7; it must be a whole number, 8 or more"),
    ("pretrain.diffusion.steps=0", "pretrain.diffusion.steps is 0; it must be a whole number, 1 or more"),
    ("pretrain.judge.rate=inf", "pretrain.judge.rate is inf; it must be a number, above 0"),
    ("pretrain.diffusion.guidance=nan", "guidance is nan; it must be a number"),
    ("optimizer.build.lr=1e300", "optimizer.build.lr is 1e+300; it must be a number, above 0 and at most 1e+30"),
    ("fail_under.ua=nan", "fail_under.ua is nan; it must be a number"),  # no signature or rule names it
    ("+trainer.anything=inf", "trainer.anything is inf; it must be a number"),
]


@pytest.mark.parametrize(("overrides", "said"), WRONG, ids=[overrides for overrides, _ in WRONG])
def test_a_wrong_value_is_one_line_with_its_name(monkeypatch: pytest.MonkeyPatch, overrides: str, said: str) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(BadInput) as told:
        check_options(given(composed(*overrides.split())))
    assert said in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    "overrides",
    [
        "optimizer.build.lr=1",
        "trainer.devices=auto",
        "trainer.gradient_clip_val=null",
        "+optimizer.build.betas=[0.9,0.99]",
        "trainer.precision=16",
        "seed=4294967295",
        "sparsity.p=1",
        "trainer.devices=-1",
        "surrogate=photo",
        "target='5'",
        "dataset.test=0",
    ],
)
def test_a_value_that_can_be_used_passes(overrides: str) -> None:
    check_options(given(composed(overrides)))


def test_values_that_are_put_in_are_where_hydra_composes_them() -> None:
    """What configs.py saves: of a dictionary, a list, a value that others point at, beside a choice of options."""
    asked = ["method=spm", "trainer.max_steps=7", "protocol.seeds=[1,2]", "method.terms={forget: 2.0}", "target='5'"]
    assert composed(*asked) == hydras(*asked) != hydras(asked[0])
