"""Shared-prefix attention against a dense mask: outputs and gradients, any layout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.attention import owners, packed_attention
from vlrft.kernels import PaddedKernel, kernel_for
from vlrft.layout import PackedLayout, layout_of

groups_of_lengths = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(0, 7), min_size=0, max_size=4)), min_size=1, max_size=4
)


def random_qkv(layout: PackedLayout, heads: int, kv_heads: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(layout.num_tokens, h, 16, generator=rng, requires_grad=True) for h in (heads, kv_heads, kv_heads)
    )


def run(layout: PackedLayout, kind: str, heads: int, kv_heads: int) -> list[torch.Tensor]:
    q, k, v = random_qkv(layout, heads, kv_heads)
    out = packed_attention(q, k, v, layout, 0.25, kind)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1)))
    return [out.detach(), q.grad, k.grad, v.grad]  # type: ignore[list-item]


@settings(max_examples=40, deadline=None)
@given(lengths=groups_of_lengths, heads=st.sampled_from([(4, 4), (4, 2), (6, 1)]))
def test_two_part_equals_dense(lengths: list[tuple[int, list[int]]], heads: tuple[int, int]) -> None:
    layout = layout_of(lengths)
    for ours, reference in zip(run(layout, "two_part", *heads), run(layout, "dense", *heads), strict=True):
        torch.testing.assert_close(ours, reference, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("lengths", [[(7, [3, 5, 1])], [(4, [2, 2]), (9, [1, 6, 0])], [(5, [])]])
def test_plain_kernel_equals_flash_kernel(
    lengths: list[tuple[int, list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layout_of(lengths)
    flash = run(layout, "two_part", 4, 2)
    monkeypatch.setattr("vlrft.attention.kernel_for", lambda *_: PaddedKernel(plain=True))
    for ours, reference in zip(run(layout, "two_part", 4, 2), flash, strict=True):
        torch.testing.assert_close(ours, reference, atol=2e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_forward_equals_dense() -> None:
    layout = layout_of([(6, [3, 4]), (5, [2])])
    q, k, v = (x.detach() for x in random_qkv(layout, 4, 2))
    flex = packed_attention(q, k, v, layout, 0.25, "flex")
    torch.testing.assert_close(flex, packed_attention(q, k, v, layout, 0.25, "dense"), atol=2e-5, rtol=1e-4)


def test_owners_restate_the_mask() -> None:
    layout = layout_of([(3, [2, 1]), (2, [4])])
    owner, branch = owners(layout)
    row = torch.arange(layout.num_tokens)[:, None]
    col = torch.arange(layout.num_tokens)[None, :]
    same_branch = (branch[None, :] < 0) | (branch[:, None] == branch[None, :])
    restated = (owner[:, None] == owner[None, :]) & same_branch & (col <= row)
    assert torch.equal(restated, layout.dense_mask())


def test_varlen_is_refused_without_cuda() -> None:
    with pytest.raises(ValueError, match="flash_varlen needs CUDA"):
        kernel_for(torch.device("cpu"), torch.float32, "flash_varlen")


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", [[(70, [33, 5, 1])], [(40, [20, 2]), (90, [11, 60])]])
def test_varlen_equals_dense_on_cuda(lengths: list[tuple[int, list[int]]]) -> None:
    layout = layout_of(lengths, "cuda")
    results = []
    for kind, dtype in (("flash_varlen", torch.bfloat16), ("dense", torch.float32)):
        q, k, v = (x.detach().to("cuda", dtype).requires_grad_() for x in random_qkv(layout, 4, 2))
        out = packed_attention(q, k, v, layout, 0.25, kind)
        out.backward(torch.ones_like(out))
        results.append([x.float() for x in (out.detach(), q.grad, k.grad, v.grad)])  # type: ignore[union-attr]
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, atol=3e-2, rtol=3e-2)
