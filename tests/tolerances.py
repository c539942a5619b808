"""How far a result may be from its recorded value, as a fraction of the largest recorded magnitude. Every row says why.

The recorded implementation itself moves by 5e-6 (BEV) to 4e-5 (decoder outputs) when its images are scaled by 1 + 1e-6 or one
thread is used instead of two; integers and masks are always compared exactly.
"""

from __future__ import annotations

from torch import Tensor

TOLERANCES: dict[str, float] = {
    # the same sums in the same order; only fused multiply-add may differ
    "exact": 1e-6,
    # a hundred convolutions from pixels, see the noise above
    "image": 1e-5,
    # BEV encoder, up to six layers and two frames with the BEV fed back: layer norms hold the noise of the features down
    "encoder": 5e-6,
    # one module from recorded inputs: rounding of a few dozen fp32 sums
    "module": 2e-5,
    # the six-layer detection decoder from a recorded BEV: its own noise, see above
    "decoder": 1e-4,
    # the documented code adds kilometres to metres in fp32 (1e-4 m), which a logit near the range's border magnifies
    "moved_reference": 2e-5,
    # images to boxes, over several frames with the state fed back
    "frame": 1e-3,
}


def close(got: Tensor, want: Tensor, row: str) -> None:
    """Assert that ``got`` has the shape of ``want`` and lies within the row's tolerance."""
    assert tuple(got.shape) == tuple(want.shape), f"{row}: shape {tuple(got.shape)}, recorded {tuple(want.shape)}"
    if want.numel() == 0:
        return
    want = want.double()
    error = (got.detach().double() - want).abs().max().item()
    limit = TOLERANCES[row] * max(want.abs().max().item(), 1.0)
    assert error <= limit, f"{row}: largest error {error:.3g}, allowed {limit:.3g}"
