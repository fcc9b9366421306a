"""Which way up a JPEG file is to be shown, read within a graph.

TensorFlow's decoders do not look at the EXIF tag Orientation (CIPA DC-008, tag 0x0112), which
cameras set instead of turning the pixels.
"""

import tensorflow as tf

HEADER_BYTES = 1 << 18  # EXIF lies in the first segments, of at most 64 KiB each
_TAG = 0x0112


def orientation(file: tf.Tensor) -> tf.Tensor:
    """Returns the EXIF orientation of a JPEG file: int32 in 1..8, 1 where it says nothing.

    Args:
      file: string scalar, the whole file or its beginning; of any format, damaged or not.
    """
    head = tf.io.decode_raw(tf.strings.substr(file, 0, HEADER_BYTES), tf.uint8)
    size = tf.size(head)
    data = tf.pad(tf.cast(head, tf.int32), [[0, 16]])  # what lies beyond the end reads as 0

    def byte(place: tf.Tensor) -> tf.Tensor:
        return tf.gather(data, tf.clip_by_value(place, 0, size + 15))

    def big_endian(place: tf.Tensor) -> tf.Tensor:
        return 256 * byte(place) + byte(place + 1)

    def unfinished(place: tf.Tensor, exif: tf.Tensor) -> tf.Tensor:
        marker = byte(place + 1)
        return (exif < 0) & (place + 4 <= size) & (byte(place) == 0xFF) & (marker != 0xDA)

    def next_segment(place: tf.Tensor, exif: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        label = tf.reduce_all(byte(place + 4 + tf.range(6)) == tf.constant(list(b"Exif\0\0")))
        here = (byte(place + 1) == 0xE1) & label
        fill = byte(place + 1) == 0xFF  # any number of these may stand before a marker
        step = tf.where(fill, 1, 2 + big_endian(place + 2))
        return place + step, tf.where(here, place + 10, exif)

    is_jpeg = big_endian(tf.constant(0)) == 0xFFD8
    start = tf.where(is_jpeg, 2, size), tf.constant(-1)
    _, exif = tf.while_loop(unfinished, next_segment, start)

    little = byte(exif) == ord("I")

    def two(place: tf.Tensor) -> tf.Tensor:
        first, second = byte(place), byte(place + 1)
        return tf.where(little, first + 256 * second, 256 * first + second)

    def four(place: tf.Tensor) -> tf.Tensor:
        first, second = two(place), two(place + 2)
        return tf.where(little, first + 65536 * second, 65536 * first + second)

    directory = exif + four(exif + 4)
    entries = directory + 2 + 12 * tf.range(two(directory))
    # A tag that stands nowhere gives the sum over nothing, 0.
    values = tf.where(two(entries) == _TAG, two(entries + 8), 0)
    value = tf.reduce_max(tf.concat([values, [0]], axis=0))
    return tf.where((exif >= 0) & (value >= 1) & (value <= 8), value, 1)


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Returns an image [H,W,C] turned and mirrored as its EXIF orientation says."""

    def when(values: tuple[int, ...], change, image: tf.Tensor) -> tf.Tensor:
        chosen = tf.reduce_any(orientation == tf.constant(values))
        return tf.cond(chosen, lambda: change(image), lambda: image)

    image = when((5, 6, 7, 8), lambda x: tf.transpose(x, [1, 0, 2]), image)
    image = when((2, 3, 6, 7), lambda x: x[:, ::-1], image)
    return when((3, 4, 7, 8), lambda x: x[::-1], image)
