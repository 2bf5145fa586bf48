"""uint8 batch -> normalised float batch, random or plain.

Everything that moves pixels (mirror, scale, crop, aspect, rotation, shift, the resize itself) is one affine matrix a
photo and one `grid_sample` a batch. Everything that changes colours, normalisation included, is one 3×3 matrix and one
offset per photo. In between, blur is one convolution per batch, with a kernel per photo; erasing comes last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: perceived brightness
GEOMETRY = ("flip", "rotate", "zoom_in", "zoom_out", "aspect", "shift")
COLOUR = ("brightness", "contrast", "saturation", "hue", "grey")
DRAWS = 16  # random numbers for one view of one photo
FINER = 4096  # a number times this, modulo 1, is the lower half of its 24 bits: a second, independent uniform number
SHARP = 1e-3  # a Gaussian with a sigma of so few pixels changes nothing
Uniform = Callable[[float, float], torch.Tensor]  # (low, high) -> [N], one uniform number a photo


@dataclass(frozen=True)
class Augment:
    """Random views of photos. Each strength is the largest change, drawn uniformly up to it; 0 switches it off.

    With all strengths at 0 the result is torch's bilinear resize, not antialiased, and the normalisation.

    >>> augment = Augment(size=224)
    >>> y = augment(x, generator=g)      # x: uint8 [N, 3, S, S] -> y: float32 [N, 3, 224, 224]
    """

    size: int  # side of the result in pixels
    mean: tuple[float, ...] = IMAGENET_MEAN  # of the backbone, RGB on a scale of 0 to 1
    std: tuple[float, ...] = IMAGENET_STD
    flip: float = 0.5  # probability of a mirror image
    rotate: float = 5.0  # degrees to either side
    # Scale and crop in one: the side of a view is 1 - zoom_in to 1 + zoom_out times the photo's.
    zoom_in: float = 0.2  # share of the side that may be cropped away; the crop lies anywhere in the photo
    zoom_out: float = 0.1  # share of the side that may be added; the photo lies anywhere in the view, mirrored around
    aspect: float = 0.1  # log of the largest change of width : height, to either side; the area stays
    shift: float = 0.0  # share of the side by which the photo may move in addition, in both directions
    brightness: float = 0.2  # factor 1 ± this
    contrast: float = 0.2  # factor 1 ± this, around the photo's mean grey
    saturation: float = 0.3  # factor 1 ± this
    hue: float = 0.02  # turns of the colour wheel to either side, around the grey axis
    grey: float = 0.03  # probability of no colour at all
    blur: float = 0.0  # sigma of a Gaussian in pixels of the result
    erase: float = 0.2  # probability of one grey rectangle, its centre anywhere in the photo
    erase_area: float = (
        0.15  # largest share of the photo it covers; the smallest is 0.02, the ratio of its sides up to e
    )

    def plain(self) -> Augment:
        """The same resize and normalisation without anything random, for validation and prediction."""
        off: dict[str, Any] = dict.fromkeys((*GEOMETRY, *COLOUR, "blur", "erase"), 0.0)
        return replace(self, **off)

    def __call__(
        self, x: torch.Tensor, generator: torch.Generator | None = None, draws: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One random view of each photo.

        Parameters
        ----------
        x : torch.uint8 [N, 3, H, W]
        generator : torch.Generator on the CPU, optional
            The same state gives the same views on every device.
        draws : torch.float32 [N, at least DRAWS] on the CPU, 0 to 1, optional
            The random numbers themselves: a photo's view depends on its own row only, not on the rest of the batch.

        Returns
        -------
        torch.float32 [N, 3, size, size] on x's device, normalised
        """
        if x.dtype != torch.uint8:
            raise TypeError(
                f"Augment takes uint8 photos (0 to 255), got {x.dtype}; pass TensorCache.batch(...) as it is"
            )
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"Augment takes a batch [N, 3, H, W], got {list(x.shape)}")
        if draws is None:  # on the CPU: the same random numbers for all devices
            draws = torch.rand(len(x), DRAWS, generator=generator)
        uniform, finer = _uniform(draws[:, :DRAWS]), _uniform(draws[:, :DRAWS] * FINER % 1)
        theta = self._geometry(uniform, finer)
        erased = self._erasing(uniform)
        sigma = finer(0, self.blur)
        x = x.float()
        matrix, offset = self._colour(uniform, self._mean_grey(x))
        y = self._blur(self._resample(x, theta), sigma)  # here: colours commute with blur, and erased edges stay sharp
        y = torch.baddbmm(offset.to(y.device)[:, :, None], matrix.to(y.device), y.flatten(2)).view_as(y)
        return y if erased is None else y * erased.to(y.device)  # 0 is the mean colour after normalisation

    def _geometry(self, uniform: Uniform, finer: Uniform) -> torch.Tensor:
        """Affine matrices [N, 2, 3] from the result's coordinates to the photo's, both from -1 to 1.

        Seen from the result: mirror, then size and aspect of the view, then rotation, then its place in the photo.
        """
        angle = uniform(-1, 1) * math.radians(self.rotate)
        view = uniform(1 - self.zoom_in, 1 + self.zoom_out)
        stretch = torch.exp(uniform(-0.5, 0.5) * self.aspect)
        width, height = view * stretch, view / stretch
        place_x = uniform(-1, 1) * (1 - width).abs() + finer(-2, 2) * self.shift
        place_y = uniform(-1, 1) * (1 - height).abs() + finer(-2, 2) * self.shift
        mirror = 1 - 2 * (uniform(0, 1) < self.flip).float()
        cos, sin = torch.cos(angle), torch.sin(angle)
        rows = [cos * width * mirror, -sin * height, place_x, sin * width * mirror, cos * height, place_y]
        return torch.stack(rows, 1).view(-1, 2, 3)

    def _resample(self, x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        """[N, 3, size, size] of photos [N, 3, H, W]; if nothing may move, torch's resize, to the last bit."""
        if not any(getattr(self, name) for name in GEOMETRY):
            return F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False)
        grid = F.affine_grid(theta.to(x.device), [len(x), 3, self.size, self.size], align_corners=False)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    def _blur(self, y: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Each photo blurred by a Gaussian of its own sigma [N] in pixels, all in one depthwise convolution."""
        if not self.blur:
            return y
        radius = min(math.ceil(3 * self.blur), self.size - 1)  # of the largest sigma, whatever the batch has
        steps = torch.arange(-radius, radius + 1)
        line = torch.exp(-((steps / sigma.clamp(min=SHARP)[:, None]) ** 2) / 2)
        line = line / line.sum(1, keepdim=True)
        kernels = (line[:, :, None] * line[:, None, :]).repeat_interleave(3, 0)[:, None]
        channels = F.pad(y, [radius] * 4, mode="reflect").flatten(0, 1)[None]
        return F.conv2d(channels, kernels.to(y.device), groups=len(kernels)).view_as(y)

    def _colour(self, uniform: Uniform, mean_grey: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Matrices [N, 3, 3] and offsets [N, 3] from 0…255 to normalised values.

        In this order: saturation, hue, brightness, contrast, normalisation.
        """
        bright = 1 + uniform(-1, 1) * self.brightness
        contrast = 1 + uniform(-1, 1) * self.contrast
        saturation = (1 + uniform(-1, 1) * self.saturation) * (uniform(0, 1) >= self.grey).float()
        turn = uniform(-1, 1) * self.hue * 2 * math.pi
        to_grey = torch.tensor(LUMA).expand(3, 3)
        saturate = saturation[:, None, None] * (torch.eye(3) - to_grey) + to_grey
        linear = _turn_around_grey(turn) @ saturate * (bright * contrast)[:, None, None]
        # contrast · (bright · x − m) + m with m = bright · mean grey; the grey axis passes hue and saturation unchanged
        offset = ((1 - contrast) * bright * mean_grey)[:, None].expand(-1, 3)
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return linear / (255 * std[:, None]), (offset / 255 - mean) / std

    def _mean_grey(self, x: torch.Tensor) -> torch.Tensor:
        """[N] mean grey of each photo on a scale of 0 to 255, on the CPU."""
        if not self.contrast:
            return torch.zeros(len(x))
        return x.mean((2, 3)).cpu() @ torch.tensor(LUMA)

    def _erasing(self, uniform: Uniform) -> torch.Tensor | None:
        """Masks [N, 1, size, size], float: 0 inside the erased rectangle, 1 elsewhere."""
        if not self.erase:
            return None
        area = uniform(min(0.02, self.erase_area), self.erase_area) * (uniform(0, 1) < self.erase).float()
        stretch = torch.exp(uniform(-0.5, 0.5))
        half_width, half_height = area.sqrt() * stretch / 2, area.sqrt() / stretch / 2
        centre_x, centre_y = uniform(0, 1), uniform(0, 1)
        steps = (torch.arange(self.size) + 0.5) / self.size
        outside_x = (steps - centre_x[:, None]).abs() >= half_width[:, None]
        outside_y = (steps - centre_y[:, None]).abs() >= half_height[:, None]
        return (outside_y[:, None, :, None] | outside_x[:, None, None, :]).float()


def _uniform(draws: torch.Tensor) -> Uniform:
    """Hand out the columns of draws one by one, scaled from 0…1 to low…high."""
    column = iter(draws.T)
    return lambda low, high: next(column) * (high - low) + low


def _turn_around_grey(angle: torch.Tensor) -> torch.Tensor:
    """Rotation matrices [N, 3, 3] of RGB around the grey axis (Rodrigues' formula)."""
    cos, sin = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None] / math.sqrt(3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    return cos * torch.eye(3) + (1 - cos) / 3 * torch.ones(3, 3) + sin * cross
