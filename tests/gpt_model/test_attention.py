"""Attention by batched products, against torch's kernel in float32."""

import pytest
import torch
from torch.nn import functional as F

from gpt_model import attention
from gpt_model.attention import attend


def heads(T: int) -> list[torch.Tensor]:
    """Return queries, keys and values (B, H, T, D) as a layer makes them: views of one matrix."""
    joined = torch.randn(2, T, 3 * 4 * 8, generator=torch.Generator().manual_seed(T))
    return [part.view(2, T, 4, 8).transpose(1, 2) for part in joined.split(32, dim=2)]


@pytest.mark.parametrize("T", [1, 2, 7, 64])
def test_in_bfloat16_output_and_gradients_are_the_exact_ones_rounded(T: int) -> None:
    exact = [each.clone().requires_grad_() for each in heads(T)]
    low = [each.bfloat16().requires_grad_() for each in heads(T)]
    right = F.scaled_dot_product_attention(*exact, is_causal=True)
    ours = attend(*low, None, 0.0)
    right.sum().backward()
    ours.float().sum().backward()
    assert (ours - right).norm() < 0.01 * right.norm()
    for one, other in zip(low, exact, strict=True):
        assert one.grad is not None
        assert one.grad.dtype == torch.bfloat16
        assert (one.grad - other.grad).norm() < 0.01 * other.grad.norm() + 1e-3


def test_in_float32_it_would_be_torchs_own_to_rounding() -> None:
    ours, theirs = ([each.clone().requires_grad_() for each in heads(9)] for _ in range(2))
    weighting = torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(1))
    (one := attention._Attention.apply(*ours)).backward(weighting)
    (other := F.scaled_dot_product_attention(*theirs, is_causal=True)).backward(weighting)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, right.grad, rtol=1e-5, atol=1e-6)


def test_the_future_is_not_seen() -> None:
    query, key, value = (each.bfloat16().requires_grad_() for each in heads(6))
    attend(query, key, value, None, 0.0)[:, :, 2].float().sum().backward()
    assert value.grad is not None
    assert (value.grad[:, :, :3] != 0).all()
    assert (value.grad[:, :, 3:] == 0).all()


def test_long_sequences_masks_dropout_and_float32_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(attention._Attention, "apply", refuse)
    plain, (query, key, value) = heads(8), (each.bfloat16() for each in heads(8))
    mask = torch.ones(8, 8, dtype=torch.bool).tril()
    assert torch.equal(attend(*plain, None, 0.0), F.scaled_dot_product_attention(*plain, is_causal=True))
    assert attend(query, key, value, None, 0.5).shape == query.shape
    with torch.no_grad():
        assert torch.allclose(attend(query, key, value, mask, 0.0), attend(query, key, value, None, 0.0), atol=0.02)
    monkeypatch.setattr(attention, "LONGEST", 7)
    assert attend(query, key, value, None, 0.0).shape == query.shape
