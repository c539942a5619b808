"""Stage 0 along a training clip: the BEV of every frame but the last is made in evaluation mode and without gradient; the last
frame's boxes are learnt from. So BEVFormer was trained (Li et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from uniad.interface.types import Clip, DetOutput, Frame
from uniad.losses.detection import detection_losses
from uniad.losses.matcher import FrameTargets, frame_targets
from uniad.models.bevformer import BevFormer
from uniad.models.grid_mask import DRAWS, apply_grid_mask
from uniad.training.clip import ClipOptions, chunks, evaluation_mode, features


def forward_detection(
    model: BevFormer,
    clip: Clip,
    reduce_mean: Callable[[Tensor], Tensor],
    rng: torch.Generator | None = None,
    options: ClipOptions | None = None,
) -> tuple[dict[str, Tensor], DetOutput]:
    """Losses of a batch of clips (``losses.detection``), and the last frame's boxes of every layer.

    clip: frames [B, T, ...], of which ``scene_start`` tells where one has no past; targets of the last frame alone [B, 1, ...].
    rng: source of the grid masks.
    """
    spec = model.spec
    samples, length = clip.frames.img.shape[:2]
    draws = _draw(samples, rng, clip.frames.img.device)
    with torch.no_grad(), evaluation_mode(model):
        state = model.init_state(samples)
        if length > 1:
            past = clip.frames.img[:, :-1]
            spans = chunks(samples * (length - 1), (options or ClipOptions()).frames_at_once)
            feats = [f.unflatten(0, (samples, length - 1)) for f in features(model, past.flatten(0, 1), spans)]
            for t in range(length - 1):
                frame = Frame(*(x[:, t] for x in clip.frames))
                _, state = model.bev_step([f[:, t] for f in feats], frame, state)
    # as in clip.clip_bevs: half-precision weights made above carry no gradient
    torch.clear_autocast_cache()
    last = Frame(*(x[:, -1] for x in clip.frames))
    masked = spec.use_grid_mask and model.training
    bev, _ = model.bev_step(model.extract_features(apply_grid_mask(last.img, draws) if masked else last.img), last, state)
    det = model.boxes(bev)
    weights = model.head.code_weights.detach()  # on the device: a CUDA graph cannot hold a copy from the host
    return detection_losses(det, middles(frame_targets(clip.targets, 0)), weights, spec.track_loss, reduce_mean), det


def middles(gt: FrameTargets) -> FrameTargets:
    """Targets with z in the middle of a box, which BEVFormer regresses; UniAD regresses the bottom."""
    half = gt.boxes[..., 5].exp() / 2
    z = torch.where(gt.valid, gt.boxes[..., 4] + half, gt.boxes[..., 4])
    return gt._replace(boxes=torch.cat([gt.boxes[..., :4], z[..., None], gt.boxes[..., 5:]], dim=-1))


@torch.compiler.disable  # as clip.draw
def _draw(samples: int, rng: torch.Generator | None, device: torch.device) -> Tensor:
    return torch.rand(samples, DRAWS, generator=rng, device=device)
