"""Vision Transformers as timm builds them: class token, learned positions, pre-norm blocks.

Written in plain Keras layers. keras-cv's PatchingAndEmbedding and TransformerEncoder have the
same weights, but hard-wire the tanh form of GELU (official weights would give other features),
create layers inside `call` that follow the process's precision policy and not the model's,
and warn of unbuilt state on every reload. Keras's MultiHeadAttention keeps query, key and value
apart; timm has one tensor, which is one weight to LARS (one norm) and has a 1-D bias.
"""

import keras

from adios_tf.errors import UserError
from adios_tf.nets.initializers import torch_default
from adios_tf.serialization import serializable

_EPSILON = 1e-6


@serializable
class ClassTokenAndPositions(keras.layers.Layer):
    """Puts a learned class token before the patches and adds a learned position to each.

    [B, T, D] -> [B, T + 1, D]. Both are drawn from N(0, 0.02).
    """

    def build(self, input_shape: tuple[int | None, int, int]) -> None:
        _, tokens, width = input_shape
        self.class_token = self.add_weight(
            shape=(1, 1, width), initializer=_draw(), name="class_token"
        )
        self.positions = self.add_weight(
            shape=(1, tokens + 1, width), initializer=_draw(), name="positions"
        )

    def call(self, patches: keras.KerasTensor) -> keras.KerasTensor:
        shape = keras.ops.shape(patches)
        batch, width = shape[0], shape[2]
        first = keras.ops.broadcast_to(self.class_token, (batch, 1, width))
        return keras.ops.concatenate([first, patches], axis=1) + self.positions

    def compute_output_shape(
        self, input_shape: tuple[int | None, int, int]
    ) -> tuple[int | None, int, int]:
        return (input_shape[0], input_shape[1] + 1, input_shape[2])


def default_patch(image_size: int) -> int:
    """Side of a patch: 16 (the papers') from 96 pixels on; smaller images keep about 64 patches."""
    return 16 if image_size >= 96 else 8 if image_size >= 64 else 4


def build_vit(
    image_size: int,
    *,
    width: int,
    heads: int,
    depth: int = 12,
    patch: int | None = None,
    in_channels: int = 3,
    name: str = "vit",
) -> keras.Model:
    """Builds a Vision Transformer: [B,S,S,C] to the class token's float32 features [B,width].

    Pre-norm blocks with a perceptron of 4 x width and exact GELU, no dropout, LayerNorm epsilon
    1e-6, a final LayerNorm (Dosovitskiy et al., arXiv 2010.11929; sizes Tiny and Small of DeiT,
    arXiv 2012.12877). Weights, names aside, are those of timm 0.5.4, and start as there: N(0,
    0.02), which timm cuts at +-2, a hundred deviations; biases 0; the patch convolution's kernel
    and bias as PyTorch's default. `UserError` where the side is no multiple of the patch.
    """
    patch = patch or default_patch(image_size)
    if image_size % patch:
        raise UserError(
            f"{name} cuts images into patches of {patch} pixels, which does not divide a side of "
            f"{image_size}: choose another patch or image size"
        )
    inputs = keras.Input((image_size, image_size, in_channels), name="image")
    x = keras.layers.Conv2D(
        width, patch, strides=patch, **torch_default(patch**2 * in_channels), name="patch_embedding"
    )(inputs)
    x = keras.layers.Reshape(((image_size // patch) ** 2, width), name="patches")(x)
    x = ClassTokenAndPositions(name="tokens")(x)
    for i in range(depth):
        x = _block(x, heads, f"block_{i}")
    full = keras.config.floatx()
    x = keras.layers.LayerNormalization(epsilon=_EPSILON, dtype=full, name="norm")(x)
    return keras.Model(inputs, x[:, 0], name=name)


def _block(x: keras.KerasTensor, heads: int, label: str) -> keras.KerasTensor:
    """Attention and perceptron, each normalized before and added to what came in."""
    tokens, width = x.shape[1:]
    y = keras.layers.LayerNormalization(epsilon=_EPSILON, name=f"{label}_norm1")(x)
    y = keras.layers.Dense(3 * width, kernel_initializer=_draw(), name=f"{label}_qkv")(y)
    y = keras.layers.Reshape((tokens, 3, heads, width // heads), name=f"{label}_heads")(y)
    scale = (width // heads) ** -0.5
    y = keras.ops.dot_product_attention(y[:, :, 0], y[:, :, 1], y[:, :, 2], scale=scale)
    y = keras.layers.Reshape((tokens, width), name=f"{label}_heard")(y)
    y = keras.layers.Dense(width, kernel_initializer=_draw(), name=f"{label}_proj")(y)
    x = keras.layers.Add(name=f"{label}_add1")([x, y])
    y = keras.layers.LayerNormalization(epsilon=_EPSILON, name=f"{label}_norm2")(x)
    y = keras.layers.Dense(4 * width, kernel_initializer=_draw(), name=f"{label}_mlp1")(y)
    y = keras.layers.Activation("gelu", name=f"{label}_gelu")(y)
    y = keras.layers.Dense(width, kernel_initializer=_draw(), name=f"{label}_mlp2")(y)
    return keras.layers.Add(name=f"{label}_add2")([x, y])


def _draw() -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=0.02)
