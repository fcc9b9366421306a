"""How an encoder wants its images."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Look:
    """Side, normalisation and way of resizing.

    Attributes:
      size: side S.
      mean, std: per channel, of images in [0,1].
      resize, crop_ratio: see `adios_tf.data.geometry.evaluation_transform`.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "squash"
    crop_ratio: float = 0.875

    def __str__(self) -> str:
        kept = f" of {self.crop_ratio:g}" if self.resize == "center_crop" else ""
        return f"{self.size} px, {self.resize}{kept}"
