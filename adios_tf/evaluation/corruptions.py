"""Common corruptions of graded severity, made on the fly.

In the spirit of Hendrycks and Dietterich (arXiv 1903.12261), with severities of our own that
scale with the image's side: scores compare encoders with each other here, not with published
tables. A corrupted image depends on the image, its index and the seed, never on its batch.
"""

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image
from scipy import ndimage

from adios_tf.errors import UserError
from adios_tf.registry import Registry

SEVERITIES = (1, 2, 3, 4, 5)

CORRUPTIONS = Registry("corruption")

# severity 1..5 of each; lengths are shares of the shorter side
_NOISE = (0.04, 0.08, 0.12, 0.18, 0.26)
_PHOTONS = (120, 60, 25, 12, 5)
_IMPULSES = (0.01, 0.03, 0.06, 0.10, 0.17)
_BLUR = (0.0125, 0.018, 0.025, 0.035, 0.050)
_MOTION = (0.06, 0.09, 0.13, 0.18, 0.25)
_CONTRAST = (0.75, 0.55, 0.40, 0.25, 0.15)
_BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
_JPEG = (60, 40, 25, 15, 8)
_PIXELS = (0.80, 0.65, 0.50, 0.40, 0.30)


@CORRUPTIONS.register("gaussian_noise", "additive normal noise")
def _gaussian_noise(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    return image + _NOISE[level] * rng.standard_normal(image.shape)


@CORRUPTIONS.register("shot_noise", "Poisson noise of few photons")
def _shot_noise(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    return rng.poisson(image * _PHOTONS[level]) / _PHOTONS[level]


@CORRUPTIONS.register("impulse_noise", "some pixels black, some white")
def _impulse_noise(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    draw = rng.random(image.shape)
    share = _IMPULSES[level] / 2
    return np.where(draw < share, 0.0, np.where(draw > 1 - share, 1.0, image))


@CORRUPTIONS.register("gaussian_blur", "out of focus")
def _gaussian_blur(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    sigma = _BLUR[level] * min(image.shape[:2])
    return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest")


@CORRUPTIONS.register("motion_blur", "moved along a random direction")
def _motion_blur(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    length = 1 + _MOTION[level] * min(image.shape[:2])
    angle = rng.uniform(0, np.pi)
    reach = int(np.ceil(length / 2))
    steps = np.linspace(-length / 2, length / 2, 8 * reach + 1)
    rows = np.rint(steps * np.sin(angle)).astype(int) + reach
    columns = np.rint(steps * np.cos(angle)).astype(int) + reach
    line = np.zeros((2 * reach + 1, 2 * reach + 1, 1))
    np.add.at(line, (rows, columns, 0), 1.0 / len(steps))
    return ndimage.convolve(image, line, mode="nearest")


@CORRUPTIONS.register("contrast", "grayer, towards the image's mean")
def _contrast(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    mean = image.mean(axis=(0, 1), keepdims=True)
    return mean + _CONTRAST[level] * (image - mean)


@CORRUPTIONS.register("brightness", "overexposed")
def _brightness(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    return image + _BRIGHTNESS[level]


@CORRUPTIONS.register("jpeg", "strong JPEG compression")
def _jpeg(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(_to_bytes(image)).save(file, "JPEG", quality=_JPEG[level])
    return np.asarray(Image.open(file), np.float64) / 255


@CORRUPTIONS.register("pixelate", "fewer pixels, each a square")
def _pixelate(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    small = (max(1, round(width * _PIXELS[level])), max(1, round(height * _PIXELS[level])))
    reduced = Image.fromarray(_to_bytes(image)).resize(small, Image.Resampling.BOX)
    return np.asarray(reduced.resize((width, height), Image.Resampling.NEAREST), np.float64) / 255


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def corrupt(
    images: np.ndarray, name: str, severity: int, seed: int = 0, first_index: int = 0
) -> np.ndarray:
    """Returns images [B,H,W,3], uint8 or float in [0,1], with one corruption, as uint8.

    The noise depends on `seed` and the index in the data set, `first_index` of images[0], so that
    batches may be cut anywhere. `UserError` for a name that is none of `CORRUPTIONS`, or a severity
    that is none of 1 (mild) to 5.
    """
    function: Callable = CORRUPTIONS[name]
    if severity not in SEVERITIES:
        raise UserError(f"severity={severity}: choose 1 (mild) to 5 (strong)")
    images = np.asarray(images)
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    stream = list(CORRUPTIONS).index(name)
    result = np.empty(images.shape, np.uint8)
    for place, image in enumerate(images):
        rng = np.random.default_rng([seed, stream, severity, first_index + place])
        changed = function(image.astype(np.float64) / scale, severity - 1, rng)
        result[place] = _to_bytes(changed)
    return result


def corruption_scores(
    clean_accuracy: float, accuracy: Mapping[tuple[str, int], float]
) -> dict[str, float]:
    """Summarizes {(corruption, severity): share right} and the accuracy on unchanged images.

    Returns "corruption_error", the mean over corruptions of the error averaged over severities,
    "corruption_error_rise", that minus the clean error, and one accuracy per corruption.
    """
    names = dict.fromkeys(name for name, _ in accuracy)
    if not names:
        raise UserError("no corruption was scored: name at least one")
    means = {
        name: float(np.mean([value for (other, _), value in accuracy.items() if other == name]))
        for name in names
    }
    error = 1.0 - float(np.mean(list(means.values())))
    return {
        "corruption_error": error,
        "corruption_error_rise": error - (1.0 - clean_accuracy),
        **means,
    }
