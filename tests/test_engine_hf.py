"""The in-process engine: log-probs equal the trainer's, seeds decide tokens, vision ids never appear."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.config import DataConfig, ModelConfig, TinyModelConfig
from vlrft.engines.base import Request, SamplingParams, row_seed
from vlrft.engines.hf import HFEngine
from vlrft.engines.sampling import draw, inverse_cdf, uniforms
from vlrft.logprob import HeadOptions
from vlrft.models import load_family
from vlrft.models.base import Family
from vlrft.pack import count, pack
from vlrft.policy import Policy
from vlrft.testing import make_prompt, plain_logps
from vlrft.types import Completion, FinishReason, Group, Rollout, Sample, Score, TextPart


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def family(request: pytest.FixtureRequest) -> Family:
    tiny = TinyModelConfig(family=request.param, hidden_size=64, num_layers=2, intermediate_size=96,
                           vision_hidden_size=32, vision_layers=2, vision_intermediate_size=64)  # fmt: skip
    return load_family(ModelConfig(tiny=tiny), DataConfig())


def requests(family: Family, rows: tuple[int, ...] = (4, 2, 3)) -> list[Request]:
    scenes = [[(84, 84)], [], [(56, 84), (84, 56)]]
    prompts = [make_prompt(family, f"s{i}", scene, "Where?" + "x" * i) for i, scene in enumerate(scenes)]
    return [
        Request(prompt=p, seeds=tuple(row_seed("t", p.sample_id, row) for row in range(n)))
        for p, n in zip(prompts, rows, strict=True)
    ]


def group_of(request: Request, completions: tuple[Completion, ...]) -> Group:
    rollouts = tuple(Rollout(completion=c, score=Score(value=0.0), reward=0.0) for c in completions)
    sample = Sample(id=request.prompt.sample_id, task="grounding", parts=(TextPart(text=""),))
    return Group(sample=sample, prompt=request.prompt, rollouts=rollouts)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_equal_the_trainers(family: Family, temperature: float) -> None:
    asked = requests(family)
    done = HFEngine(family).generate(asked, SamplingParams(max_tokens=24, temperature=temperature))
    groups = [group_of(r, c) for r, c in zip(asked, done, strict=True)]
    policy = Policy(family, HeadOptions(temperature=temperature, banned_ids=family.banned_ids))
    [batch] = pack(groups, family.collate_media, token_budget=10_000, aggregation="token_sum",
                   max_completion_length=24, counts=count(groups))  # fmt: skip
    with torch.no_grad():
        logp = policy(**batch.inputs, layout=batch.layout)["logp"]
    torch.testing.assert_close(logp, batch.behaviour_logp_N, atol=1e-5, rtol=0)


def test_same_seed_same_tokens_whatever_the_batch(family: Family) -> None:
    params = SamplingParams(max_tokens=20)
    asked = requests(family)
    together = HFEngine(family).generate(asked, params)
    alone = [HFEngine(family).generate([r], params)[0] for r in asked]
    in_turns = HFEngine(family, max_rows=4).generate(asked, params)
    one_by_one = [
        tuple(HFEngine(family).generate([Request(prompt=r.prompt, seeds=(seed,))], params)[0][0] for seed in r.seeds)
        for r in asked
    ]
    tokens = [[c.token_ids for c in cs] for cs in together]
    for other in (alone, in_turns, one_by_one):
        assert tokens == [[c.token_ids for c in cs] for cs in other]
    assert len({t for ts in tokens for t in ts}) == sum(len(r.seeds) for r in asked)


def bias_head(family: Family, token: int, amount: float) -> torch.utils.hooks.RemovableHandle:
    def add(module: torch.nn.Module, args: tuple[torch.Tensor, ...], logits: torch.Tensor) -> torch.Tensor:
        logits[..., token] += amount
        return logits

    return family.lm_head.register_forward_hook(add)


def test_vision_ids_are_never_sampled_even_by_a_model_that_wants_to(family: Family) -> None:
    image_id = family.image_id  # type: ignore[attr-defined]
    hook = bias_head(family, image_id, 50.0)
    try:
        done = HFEngine(family).generate(requests(family), SamplingParams(max_tokens=16))
        greedy = HFEngine(family).generate(requests(family), SamplingParams(max_tokens=4, temperature=0.0))
    finally:
        hook.remove()
    seen = {t for cs in [*done, *greedy] for c in cs for t in c.token_ids}
    assert image_id in family.banned_ids
    assert not seen & set(family.banned_ids)
    assert all(torch.isfinite(torch.tensor(c.logprobs)).all() for cs in done for c in cs)


def test_stop_tokens_end_rows_and_the_rest_goes_on(family: Family) -> None:
    hook = bias_head(family, family.stop_ids[0], 3.5)
    try:
        done = [
            c
            for cs in HFEngine(family).generate(requests(family, (8, 8, 8)), SamplingParams(max_tokens=30))
            for c in cs
        ]
    finally:
        hook.remove()
    lengths = {len(c.token_ids) for c in done}
    assert len(lengths) > 3, "rows should end at different times"
    for c in done:
        ends = [i for i, t in enumerate(c.token_ids) if t in family.stop_ids]
        assert ends == ([len(c.token_ids) - 1] if c.finish_reason == FinishReason.STOP else [])
        assert c.finish_reason == FinishReason.STOP or len(c.token_ids) == 30


def test_compaction_keeps_logprobs_exact(family: Family) -> None:
    """Rows that outlive others still carry the log-probs of the plain forward."""
    hook = bias_head(family, family.stop_ids[0], 3.5)
    asked = requests(family, (6, 5, 7))
    try:
        done = HFEngine(family).generate(asked, SamplingParams(max_tokens=30))
        family.model.config.get_text_config()._attn_implementation = "sdpa"
        for request, completions in zip(asked, done, strict=True):
            group = group_of(request, completions)
            with torch.no_grad():
                expected = plain_logps(family.model, family, group)
            for completion, logp in zip(completions, expected, strict=True):
                torch.testing.assert_close(torch.tensor(completion.logprobs), logp, atol=1e-5, rtol=0)
    finally:
        hook.remove()
        family.model.config.get_text_config()._attn_implementation = "vlrft_shared_prefix"


def test_ignore_eos_gives_exactly_max_tokens(family: Family) -> None:
    hook = bias_head(family, family.stop_ids[0], 20.0)
    try:
        done = HFEngine(family).generate(requests(family), SamplingParams(max_tokens=9, ignore_eos=True))
    finally:
        hook.remove()
    assert {len(c.token_ids) for cs in done for c in cs} == {9}


def test_prompt_and_image_are_encoded_once_per_group(family: Family) -> None:
    """What the vision tower and the layers see: one image per prompt, prompt tokens once, then one token per row."""
    calls: dict[str, list[int]] = {"patches": [], "tokens": []}
    visual = family.model.model.visual
    layer = family.model.model.language_model.layers[0]
    hooks = [
        visual.register_forward_pre_hook(lambda m, a: calls["patches"].append(len(a[0]))),
        layer.register_forward_pre_hook(lambda m, a: calls["tokens"].append(a[0].shape[0] * a[0].shape[1])),
    ]
    asked = requests(family)
    HFEngine(family).generate(asked, SamplingParams(max_tokens=3, ignore_eos=True))
    for hook in hooks:
        hook.remove()
    assert calls["patches"] == [sum(len(r.prompt.mm["pixel_values"]) for r in asked if r.prompt.mm)]
    assert calls["tokens"] == [sum(len(r.prompt.token_ids) for r in asked), 9, 9]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**63), st.one_of(st.integers(2, 50), st.integers(510, 1600)))
def test_inverse_cdf_never_picks_an_impossible_token(seed: int, vocab: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    probs = torch.rand(6, vocab, generator=rng) * (torch.rand(6, vocab, generator=rng) > 0.5)
    probs[:, 0] += 1e-3
    for uniform in (torch.zeros(6), torch.full((6,), 1 - 2**-24), torch.rand(6, generator=rng)):
        chosen = inverse_cdf(probs, uniform)
        assert (probs.gather(1, chosen[:, None]) > 0).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**63), st.integers(2, 3000))
def test_inverse_cdf_equals_one_search_over_the_whole_vocabulary(seed: int, vocab: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    # Multiples of 1/64 add up without rounding, so both ways meet the same sums.
    probs = torch.randint(0, 3, (8, vocab), generator=rng) / 64
    probs[:, vocab // 2] += 1 / 64
    uniform = torch.rand(8, generator=rng)
    whole = torch.searchsorted(probs.cumsum(-1), (uniform * probs.sum(-1))[:, None], right=True)[:, 0]
    assert inverse_cdf(probs, uniform).equal(whole)


def test_logits_that_are_not_finite_are_named() -> None:
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        draw(torch.tensor([[0.0, float("nan"), 1.0]]), torch.tensor([0.5]), SamplingParams(), ())


def test_sampling_follows_the_distribution() -> None:
    probs = torch.tensor([0.5, 0.25, 0.2, 0.05])
    logits = probs.log().repeat(20_000, 1)
    tokens, logp = draw(logits, uniforms(range(20_000), 1)[:, 0], SamplingParams(), ())
    share = torch.bincount(tokens, minlength=4) / 20_000
    torch.testing.assert_close(share, probs, atol=0.012, rtol=0)
    torch.testing.assert_close(logp, probs.log()[tokens])


@pytest.mark.parametrize(("params", "allowed"), [
    (SamplingParams(top_k=2), {0, 1}), (SamplingParams(top_p=0.6), {0, 1}), (SamplingParams(top_p=0.4), {0}),
    (SamplingParams(top_k=3, top_p=0.99), {0, 1, 2}),
])  # fmt: skip
def test_top_k_and_top_p(params: SamplingParams, allowed: set[int]) -> None:
    probs = torch.tensor([0.5, 0.25, 0.2, 0.05])
    tokens, logp = draw(probs.log().repeat(500, 1), uniforms(range(500), 1)[:, 0], params, ())
    assert set(tokens.tolist()) == allowed
    mass = sum(float(probs[i]) for i in allowed)
    torch.testing.assert_close(logp, (probs[tokens] / mass).log(), atol=1e-5, rtol=0)


def test_uniforms_depend_on_the_seed_alone() -> None:
    assert torch.equal(uniforms([5, 9], 4)[1], uniforms([9], 4)[0])
    assert not torch.equal(uniforms([5], 4), uniforms([6], 4))
