"""Image files of every kind, whole and damaged, drawn from a random generator.

Each function returns (content, ending, what must be read of it, tolerance): pixels uint8 [h,w,3],
or REFUSED or ANYTHING.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from adios_tf.data import folders

LOSSLESS = {
    "png": {},
    "bmp": {},
    "tif": {"compression": "tiff_lzw"},
    "tiff": {},
    "webp": {"lossless": True, "exact": True},
}
FORMATS = {"tif": "TIFF", "jpg": "JPEG"}
REFUSED, ANYTHING = "refused", "anything"  # what a file may become, beside given pixels


def encoded(image, ending, **options):
    buffer = io.BytesIO()
    image.save(buffer, FORMATS.get(ending, ending.upper()), **options)
    return buffer.getvalue()


def noise(rng, *channels, high=256, kind=np.uint8, size=None):
    height, width = size or rng.integers(1, 65, 2)
    return rng.integers(0, high, (height, width, *channels)).astype(kind)


def smooth(rng, channels=3):
    """What lossy compression changes little."""
    height, width = rng.integers(24, 65, 2)
    y, x = np.mgrid[:height, :width] / 64
    planes = [127 + 60 * np.sin(3 * y * rng.random() + 3 * x + n) for n in range(channels)]
    return np.stack(planes, axis=-1).astype(np.uint8)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, color, data, more=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# ---------------------------------------------------------------------- whole images


def color(rng, endings=tuple(LOSSLESS), size=None):
    pixels, ending = noise(rng, 3, size=size), rng.choice(endings)
    return encoded(Image.fromarray(pixels), ending, **LOSSLESS[ending]), ending, pixels, 0


def lossy(rng):
    pixels, ending = smooth(rng), rng.choice(["jpg", "jpeg", "webp"])
    options = {"quality": 95, "progressive": bool(rng.random() < 0.5)}
    return encoded(Image.fromarray(pixels), ending, **options), ending, pixels, 24


def one_pixel(rng):
    return color(rng, size=(1, 1))


def very_long(rng):
    return color(rng, ("png", "bmp", "tif"), [(65_000, 1), (1, 65_000)][rng.integers(2)])


def gray(rng):
    pixels, ending = noise(rng), rng.choice(["png", "bmp", "tif", "gif"])
    image = Image.fromarray(pixels)
    if rng.random() < 0.5:
        pixels = np.where(pixels < 128, 0, 255).astype(np.uint8)
        image = Image.fromarray(pixels).convert("1", dither=Image.Dither.NONE)
    return encoded(image, ending), ending, np.dstack([pixels] * 3), 0


def gray_16_bits(rng):
    pixels, ending = noise(rng, high=65536, kind=np.uint16), rng.choice(["png", "tif", "tiff"])
    stored = pixels.astype(">u2") if ending == "tiff" else pixels
    return encoded(Image.fromarray(stored), ending), ending, np.dstack([pixels // 256] * 3), 0


def color_16_bits(rng):
    pixels = noise(rng, 3, high=65536, kind=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png(pixels.shape[1], pixels.shape[0], 16, 2, rows), "png", pixels // 256, 0


def palette(rng):
    number = int(rng.choice([2, 4, 16, 200, 256]))
    colors, places = noise(rng, 3, size=(1, number))[0], noise(rng, high=number)
    ending = rng.choice(["png", "gif", "tif", "bmp"])
    image = Image.fromarray(places)
    image.putpalette(colors.reshape(-1).tolist())
    options = {"transparency": 0} if ending in ("png", "gif") and rng.random() < 0.5 else {}
    return encoded(image, ending, **options), ending, colors[places], 0


def cmyk(rng):
    if rng.random() < 0.5:
        pixels, ending, tolerance = smooth(rng, 4), "jpg", 24
    else:
        pixels, ending, tolerance = noise(rng, 4), "tif", 1
    ink = pixels.astype(float) / 255
    seen = np.rint(255 * (1 - ink[..., :3]) * (1 - ink[..., 3:]))
    options = {"quality": 98} if ending == "jpg" else {}
    return encoded(Image.fromarray(pixels, "CMYK"), ending, **options), ending, seen, tolerance


def alpha(rng):
    if rng.random() < 0.3:
        pixels = noise(rng, 2)
        content = encoded(Image.fromarray(pixels, "LA"), "png")
        return content, "png", np.repeat(pixels[..., :1], 3, axis=2), 0
    pixels, ending = noise(rng, 4), rng.choice(["png", "tif", "webp"])
    content = encoded(Image.fromarray(pixels, "RGBA"), ending, **LOSSLESS[ending])
    return content, ending, pixels[..., :3], 0


def animated(rng):
    ending = rng.choice(["gif", "png", "webp"])
    size = tuple(rng.integers(2, 40, 2))
    frames = [noise(rng, 3, size=size) for _ in range(3)]
    if ending == "gif":  # few colors, so that nothing is lost
        frames = [(frame[..., :1] // 128 * 255).repeat(3, 2) for frame in frames]
    images = [Image.fromarray(frame) for frame in frames]
    more = {"save_all": True, "append_images": images[1:], "duration": 50}
    return encoded(images[0], ending, **more, **LOSSLESS.get(ending, {})), ending, frames[0], 0


def turned(rng):
    pixels, ending, tolerance = noise(rng, 3), rng.choice(["png", "tif", "webp", "jpg"]), 0
    if ending == "jpg":
        pixels, tolerance = smooth(rng), 24
    number, exif = int(rng.integers(1, 9)), Image.Exif()
    exif[0x0112] = number
    options = LOSSLESS.get(ending, {"quality": 95})
    content = encoded(Image.fromarray(pixels), ending, exif=exif, **options)
    seen = [
        pixels,
        pixels[:, ::-1],
        pixels[::-1, ::-1],
        pixels[::-1],
        pixels.transpose(1, 0, 2),
        np.rot90(pixels, -1),
        pixels[::-1, ::-1].transpose(1, 0, 2),
        np.rot90(pixels),
    ][number - 1]
    return content, ending, seen, tolerance


def wrong_extension(rng):
    content, ending, pixels, tolerance = rng.choice([color, lossy, palette, alpha])(rng)
    others = [e.lstrip(".") for e in folders.IMAGE_ENDINGS if e != f".{ending}"]
    return content, rng.choice(others), pixels, tolerance


WHOLE = {
    "color": color,
    "lossy": lossy,
    "1x1": one_pixel,
    "65,000x1": very_long,
    "gray, black and white": gray,
    "gray of 16 bits": gray_16_bits,
    "color of 16 bits": color_16_bits,
    "palette": palette,
    "CMYK": cmyk,
    "alpha": alpha,
    "animated": animated,
    "EXIF-rotated": turned,
    "wrong extension": wrong_extension,
}

# ---------------------------------------------------------------------- damaged images


def some_whole(rng):
    return WHOLE[rng.choice(list(WHOLE))](rng)


def empty(rng):
    return b"", rng.choice(folders.IMAGE_ENDINGS)[1:], REFUSED, 0


def truncated(rng):
    content, *rest = some_whole(rng)
    return content[: rng.integers(1, len(content))], *rest


def flipped(rng):
    content, ending, pixels, tolerance = some_whole(rng)
    changed = bytearray(content)
    for place in rng.integers(0, len(content), rng.integers(1, 6)):
        changed[place] ^= 1 << int(rng.integers(8))
    checksums = content.startswith(b"\x89PNG")
    return bytes(changed), ending, pixels if checksums else ANYTHING, tolerance


def spliced(rng):
    (one, ending, *_), (other, *_) = some_whole(rng), some_whole(rng)
    cut = rng.integers(1, len(one))
    return one[:cut] + other[min(cut, len(other)) :], ending, ANYTHING, 0


def no_image(rng):
    kinds = (rng.bytes(int(rng.integers(1, 5000))), b"<html>404</html>", b"GIF89a", b"\xff\xd8\xff")
    postscript = encoded(Image.new("RGB", (4, 4)), "eps")
    return [*kinds, postscript][rng.integers(5)], rng.choice(["jpg", "png", "tif"]), REFUSED, 0


def bomb(rng):
    """A small file that says it is huge, or unpacks to much; below the bound too."""
    side = int(rng.choice([8_000, 9_000, 12_000, 20_000, 65_000]))
    if rng.random() < 0.4:
        body = zlib.compress(bytes(50_000_000))
        more = chunk([b"iCCP", b"zTXt"][rng.integers(2)], b"x\0\0" + body)
        return png(2, 2, 8, 2, bytes(14), more), "png", np.zeros((2, 2, 3)), 0
    ending = rng.choice(["png", "bmp", "gif", "tif", "jpg"])
    content = bytearray(encoded(Image.new("RGB", (16, 16)), ending))
    if ending == "png":
        return png(side, side, 8, 2, bytes(1000)), ending, REFUSED, 0
    if ending == "bmp":
        content[18:26] = struct.pack("<ii", side, side)
    if ending == "gif":
        content[6:10] = struct.pack("<HH", side, side)
        return bytes(content), ending, ANYTHING, 0  # the screen is large, the picture on it is not
    if ending == "jpg":
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = struct.pack(">HH", side, side)
        return bytes(content), ending, ANYTHING, 0  # no file of its own says how much must come
    if ending == "tif":
        tags = struct.unpack("<I", content[4:8])[0]
        for n in range(struct.unpack("<H", content[tags : tags + 2])[0]):
            entry = tags + 2 + 12 * n
            if struct.unpack("<H", content[entry : entry + 2])[0] in (256, 257):
                content[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(content), ending, REFUSED, 0


DAMAGED = {
    "zero-byte": empty,
    "truncated": truncated,
    "flipped bits": flipped,
    "spliced of two": spliced,
    "no image": no_image,
    "decompression bomb": bomb,
}
