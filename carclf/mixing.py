"""Two photos in one, with the shares of their labels: mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.stats import beta

DRAWS = 4  # random numbers a photo: share, which of the two ways, place of the box in x and in y


@dataclass(frozen=True)
class Mixture:
    """How each photo of a window is mixed with its partner.

    Attributes
    ----------
    share : float32 [n], 0 to 1, of the photo itself in the label
    blend : float32 [n], 0 to 1, of the photo itself in every pixel outside the box
    box : float32 [n, 4], left, top, right and bottom of the partner's box in pixels; empty for a blended photo
    """

    share: torch.Tensor
    blend: torch.Tensor
    box: torch.Tensor

    @classmethod
    def of(cls, draws: torch.Tensor, mixup: float, cutmix: float, size: int) -> Mixture:
        """A mixture for each photo.

        Parameters
        ----------
        draws : float32 [n, DRAWS], evenly distributed from 0 to 1
        mixup, cutmix : both parameters of the Beta distribution of the shares; where both are positive, either
            befalls half of the photos
        size : side of the photos in pixels
        """
        u, way, x, y = draws[:, :DRAWS].T
        cut = (way < (cutmix > 0) / ((mixup > 0) + (cutmix > 0))).float()
        alpha = torch.where(cut > 0, cutmix, mixup).double().numpy()
        share = torch.from_numpy(beta.ppf(u.double().numpy(), alpha, alpha)).float()
        side = (cut * (1 - share).sqrt() * size).round()  # whole pixels, so that the label's share is the picture's
        left, top = ((size - side) * x).round(), ((size - side) * y).round()
        box = torch.stack([left, top, left + side, top + side], 1)
        return cls(torch.where(cut > 0, 1 - (side / size) ** 2, share), torch.where(cut > 0, 1.0, share), box)

    def __getitem__(self, part) -> Mixture:
        return Mixture(self.share[part], self.blend[part], self.box[part])

    def __call__(self, photos: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
        """Mixed photos, float32 [n, 3, size, size], of two batches of that shape."""
        steps = torch.arange(photos.shape[-1])
        left, top, right, bottom = (side[:, None] for side in self.box.T)
        across = ((steps >= left) & (steps < right)).float()
        down = ((steps >= top) & (steps < bottom)).float()
        inside = down[:, :, None] * across[:, None, :]
        own = (self.blend[:, None, None] * (1 - inside))[:, None].to(photos.device)
        return photos * own + partners * (1 - own)
