"""Chunked log-probs against torch's own log_softmax: values and gradients."""

from __future__ import annotations

import pytest
import torch

from vlrft.logprob import HeadOptions, LogprobHead, embed


def run(options: HeadOptions, reference: bool) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    head = LogprobHead(torch.nn.Linear(12, 37, bias=False))
    with torch.no_grad():
        head.lm_head.weight.copy_(torch.randn(37, 12, generator=rng))
    hidden = torch.randn(23, 12, generator=rng).requires_grad_()
    targets = torch.randint(5, 37, (23,), generator=rng)
    g_logp, g_entropy = torch.randn(2, 23, generator=rng)
    if reference:
        logits = hidden @ head.lm_head.weight.t() / options.temperature
        logits[:, list(options.banned_ids)] = -1e9
        all_logp = logits.log_softmax(-1)
        logp = all_logp.gather(1, targets[:, None])[:, 0]
        entropy = torch.distributions.Categorical(logits=logits).entropy()
    else:
        logp, entropy = head(hidden, targets, options)
    loss = (g_logp * logp).sum()
    if options.entropy_grad:
        loss = loss + (g_entropy * entropy).sum()
    loss.backward()
    assert hidden.grad is not None
    assert head.lm_head.weight.grad is not None
    return [logp.detach(), entropy.detach(), hidden.grad, head.lm_head.weight.grad]


@pytest.mark.parametrize("chunk_size", [1, 5, 23, 100])
@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("entropy_grad", [False, True])
@pytest.mark.parametrize(("temperature", "banned"), [(1.0, ()), (0.7, (0, 3))])
def test_equals_log_softmax(
    chunk_size: int, cache_bytes: int, in_place: bool, entropy_grad: bool, temperature: float, banned: tuple[int, ...]
) -> None:
    options = HeadOptions(
        temperature=temperature,
        banned_ids=banned,
        chunk_size=chunk_size,
        cache_bytes=cache_bytes,
        entropy_grad=entropy_grad,
        accumulate_in_place=in_place,
    )
    for ours, expected in zip(run(options, False), run(options, True), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_frozen_head_gets_no_gradient() -> None:
    head = LogprobHead(torch.nn.Linear(4, 9, bias=False).requires_grad_(False))
    hidden = torch.randn(3, 4, requires_grad=True)
    head(hidden, torch.tensor([1, 2, 3]), HeadOptions())[0].sum().backward()
    assert head.lm_head.weight.grad is None
    assert hidden.grad is not None


def test_head_with_bias_is_refused() -> None:
    with pytest.raises(ValueError, match="bias"):
        LogprobHead(torch.nn.Linear(4, 9))


def test_embed_adds_its_gradient_in_place() -> None:
    table = torch.nn.Embedding(11, 4, padding_idx=7)
    ids = torch.tensor([[3, 3, 7, 1]])
    upstream = torch.randn(1, 4, 4)
    table(ids).backward(upstream)
    expected = table.weight.grad
    table.weight.grad = None
    for _ in range(2):
        embed(table, ids).backward(upstream)
    assert expected is not None
    torch.testing.assert_close(table.weight.grad, 2 * expected)
