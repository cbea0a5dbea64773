"""Grey a square of each image out."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tenfold.training.augmentation import Augmentation, Epoch, register_augmentation


@register_augmentation("cutout")
class Cutout(Augmentation):
    """Set a square to the mean colour. Parameters: int64 N×2, its top left pixel, which may lie outside.

    DeVries and Taylor, "Improved regularization of convolutional neural networks with cutout", 2017.
    """

    normalized: ClassVar[bool] = True

    side: Annotated[int, Field(ge=1, le=1024)] = 8
    """Side of the square, in pixels."""

    def sample(self, epoch: Epoch) -> Tensor:
        """Draw a place for every image, among all that touch it."""
        return torch.randint(1 - self.side, epoch.size, (epoch.count, 2), generator=epoch.generator)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """As `Augmentation.apply`."""
        steps = torch.arange(images.shape[2], device=images.device)
        rows, columns = ((steps >= params[:, i, None]) & (steps < params[:, i, None] + self.side) for i in (0, 1))
        return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)
