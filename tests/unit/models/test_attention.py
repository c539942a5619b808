"""Padded keys in attention: ignored beside others, and harmless where there are no others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from uniad.models.attention import PADDED_LOGIT, MultiheadAttention, padding_bias

DIM, HEADS, QUERIES, KEYS = 32, 4, 5, 6


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(3, QUERIES, DIM, generator=g), torch.randn(3, KEYS, DIM, generator=g)


def test_the_bias_hides_padded_keys_unless_there_are_no_others():
    padding = torch.tensor([[False, True, True], [True, True, True], [False, False, False]])
    expected = torch.tensor([[0.0, PADDED_LOGIT, PADDED_LOGIT], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert torch.equal(padding_bias(padding, dtype).float(), expected.to(dtype).float())
    rows = padding.repeat(2, 1, 1)  # a mask for each query
    assert torch.equal(padding_bias(rows, torch.float32), expected.repeat(2, 1, 1))


def test_it_is_torchs_attention_where_a_query_has_a_key():
    query, key = inputs()
    padding = torch.rand(3, KEYS, generator=torch.Generator().manual_seed(1)) < 0.5
    padding[:, 0] = False
    ours, torchs = MultiheadAttention(DIM, HEADS), nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    torchs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(query, key, key, padding), torchs(query, key, key, key_padding_mask=padding)[0])


@pytest.mark.parametrize("per_query", [False, True])
def test_a_set_without_keys_changes_nothing_elsewhere(per_query):
    """What a query without keys gets is not used: no value, gradient or weight may become infinite, nor others change."""
    query, key = inputs()
    padding = torch.zeros(3, KEYS, dtype=torch.bool)
    padding[1] = True
    if per_query:
        padding = padding[:, None].repeat(1, QUERIES, 1)
    attention = MultiheadAttention(DIM, HEADS)
    query.requires_grad_(), key.requires_grad_()
    out = attention(query, key, key, padding)
    assert out.isfinite().all()
    torch.testing.assert_close(out[[0, 2]], attention(query[[0, 2]], key[[0, 2]], key[[0, 2]]))
    used = torch.tensor([True, False, True])[:, None, None]
    torch.where(used, out, 0.0).square().sum().backward()
    assert all(g.isfinite().all() for g in (query.grad, key.grad, *(p.grad for p in attention.parameters())))
    assert not query.grad[1].any() and not key.grad[1].any()


def test_no_query_sees_an_offset_common_to_all_its_logits(monkeypatch):
    """What cuDNN cannot take: a mask that hides every key."""
    seen = []

    def watch(q, k, v, mask=None, **more):
        seen.append(mask)
        return torch.zeros_like(q)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watch)
    query, key = inputs()
    for padding in (torch.ones(3, KEYS, dtype=torch.bool), torch.ones(3, QUERIES, KEYS, dtype=torch.bool)):
        MultiheadAttention(DIM, HEADS)(query, key, key, padding)
    assert all((mask == 0).all() for mask in seen) and len(seen) == 2
