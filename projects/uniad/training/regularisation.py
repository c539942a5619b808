"""Training without what keeps a model from overfitting.

Dropout, grid mask and photometric distortion pay off over epochs of varied images. A training of minutes underfits, and
hiding half of every image only holds it up.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from uniad.config.spec import Spec


def plain_images(spec: Spec) -> Spec:
    """The same spec with no grid mask and no photometric distortion."""
    image = replace(spec.data.image, photometric=False)
    return replace(spec, model=replace(spec.model, use_grid_mask=False), data=replace(spec.data, image=image))


def without_dropout(model: nn.Module) -> int:
    """Sets every dropout rate of ``model`` to 0. Returns how many there were."""
    count = 0
    for module in model.modules():
        attribute = "p" if isinstance(module, nn.Dropout) else "dropout"
        rate = getattr(module, attribute, None)
        if isinstance(rate, float) and rate > 0:
            setattr(module, attribute, 0.0)
            count += 1
    return count
