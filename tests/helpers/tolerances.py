"""How far a result may be from its recorded value, as a fraction of the largest recorded magnitude. Every row says why.

The recorded implementation itself moves by 5e-6 (BEV) to 4e-5 (decoder outputs) when its images are scaled by 1 + 1e-6 or one
thread is used instead of two; integers and masks are always compared exactly.
"""

from __future__ import annotations

from torch import Tensor

TOLERANCES: dict[str, float] = {
    # the same sums in the same order; only fused multiply-add, and the last bit of sines and logarithms, which are each
    # processor's own, may differ
    "exact": 1e-6,
    # a hundred convolutions from pixels, see the noise above
    "image": 1e-5,
    # BEV encoder, up to six layers and two frames with the BEV fed back: layer norms hold the noise of the features down
    "encoder": 5e-6,
    # one module from recorded inputs: rounding of a few dozen fp32 sums
    "module": 2e-5,
    # the six-layer detection decoder from a recorded BEV: its own noise, see above
    "decoder": 1e-4,
    # upstream's code adds kilometres to metres in fp32 (1e-4 m), which a logit near the range's border magnifies
    "moved_reference": 2e-5,
    # the map head from a recorded BEV: twelve transformer layers and up to seven mask layers; measured 3e-6
    "map": 2e-5,
    # map losses of the recorded clip, from images; measured 3e-6, and the recorded implementation's own noise is 5e-6
    "map_loss": 2e-5,
    # images through tracks and motion to occupancy, up to three frames fed back; measured 3e-5 (masks), 2e-5 (the rest)
    "occ": 2e-4,
    # motion from a recorded BEV: the map head, then three layers whose goals feed back; measured 4e-6, recorded noise 1e-4
    "motion": 2e-5,
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


# Along the recorded training clip: images to losses and gradients, tracks fed back for five frames, relative to each value.
# The recorded implementation moves by 5e-6 (losses) and 2.4e-3 (gradient norms) when its images are scaled by 1 + 1e-6.
CLIP_LOSS = 1e-4
# The last layer's boxes sit on carried tracks, whose positions feed back: noise grows threefold a frame, to 3e-3 m in frame 4.
CLIP_LOSS_CARRIED_BOXES = 3e-4
CLIP_IOU = 1e-2  # absolute; the same 3e-3 m on boxes of a metre
CLIP_GRAD_NORM = 1e-2
CLIP_TOTAL_GRAD_NORM = 1e-3
