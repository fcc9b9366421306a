"""Projectors and predictors: the small networks between the encoder and the loss.

All heads are one row of `HEADS` each, read from top to bottom, one entry per dense layer.
Initial weights are PyTorch's defaults (see `initializers`), as in the official code.
"""

from typing import Literal, NamedTuple

import keras

from adios_tf.errors import UserError
from adios_tf.nets.initializers import torch_default
from adios_tf.registry import check_choice


class Dense(NamedTuple):
    """One dense layer of a head and what follows it.

    `norm` is the BatchNorm after the layer: none, with scale and offset, or without ("plain").
    """

    width: Literal["hidden", "out"]
    bias: bool = True
    norm: Literal["affine", "plain"] | None = None
    relu: bool = True


_LINEAR_OUT = Dense("out", relu=False)
_PLAIN = (Dense("hidden"), _LINEAR_OUT)
_NORMED = (Dense("hidden", norm="affine"), _LINEAR_OUT)
_NORMED_NO_BIAS = Dense("hidden", bias=False, norm="affine")

# ADIOS, official code; MoCo v2, arXiv 2003.04297, section 3 (two layers, ReLU, no BatchNorm).
HEADS: dict[str, tuple[Dense, ...]] = {
    "simclr_projector": _PLAIN,
    "moco_projector": _PLAIN,
    "byol_projector": _NORMED,
    "byol_predictor": _NORMED,
    "simsiam_projector": (_NORMED_NO_BIAS, _NORMED_NO_BIAS, Dense("out", norm="plain", relu=False)),
    "simsiam_predictor": (_NORMED_NO_BIAS, _LINEAR_OUT),
}


def build_head(
    head: str | tuple[Dense, ...],
    in_dim: int,
    hidden: int,
    out: int,
    *,
    batchnorm_momentum: float = 0.9,
    batchnorm_epsilon: float = 1e-5,
    name: str | None = None,
) -> keras.Model:
    """Builds a head that maps [B, in_dim] to float32 [B, out].

    Args:
      head: a name in `HEADS`, or a tuple of `Dense` rows of your own.
      in_dim: width of the features that come in.
      hidden: width of the hidden layers (ADIOS: 2048 or 4096; BYOL's predictor 8192).
      out: width of the embedding (ADIOS: 128 to 2048).
      batchnorm_momentum: share of the old running average that stays; 0.9 is PyTorch's 0.1.
      batchnorm_epsilon: PyTorch's default, not Keras's 1e-3.
      name: the model's name; by default the head's.

    Layers are called `dense_<i>` and `norm_<i>`. BatchNorm takes its statistics over all
    replicas. Under mixed precision the last layer and every BatchNorm give float32.

    Raises:
      UserError: `head` is no known name, or a width is not positive.
    """
    if isinstance(head, str):
        check_choice("head", head, HEADS)
        name, rows = name or head, HEADS[head]
    else:
        rows = head
    widths = {"hidden": hidden, "out": out}
    if min(in_dim, hidden, out) < 1:
        raise UserError(
            f"{name or 'a head'} needs positive widths, not in {in_dim}, hidden {hidden}, out {out}"
        )

    x = inputs = keras.Input((in_dim,), name="features")
    for i, row in enumerate(rows):
        last = i == len(rows) - 1
        x = keras.layers.Dense(
            widths[row.width],
            use_bias=row.bias,
            **torch_default(x.shape[-1]),
            dtype=keras.config.floatx() if last else None,
            name=f"dense_{i}",
        )(x)
        if row.norm:
            x = keras.layers.BatchNormalization(
                momentum=batchnorm_momentum,
                epsilon=batchnorm_epsilon,
                center=row.norm == "affine",
                scale=row.norm == "affine",
                synchronized=True,
                dtype=keras.config.floatx(),
                name=f"norm_{i}",
            )(x)
        if row.relu:
            x = keras.layers.ReLU(name=f"relu_{i}")(x)
    return keras.Model(inputs, x, name=name)


def has_predictor(objective: str) -> bool:
    """Whether `objective` ("byol", "simsiam", ...) puts a predictor behind its projector."""
    return f"{objective}_predictor" in HEADS


def build_projector(
    objective: str, in_dim: int, hidden: int, out: int, **kwargs: object
) -> keras.Model:
    """The projector of `objective` ("simclr", "byol", "simsiam", "moco"): see `build_head`."""
    return build_head(f"{objective}_projector", in_dim, hidden, out, **kwargs)


def build_predictor(
    objective: str, in_dim: int, hidden: int, out: int, **kwargs: object
) -> keras.Model:
    """The predictor of `objective` ("byol", "simsiam"): see `build_head`."""
    return build_head(f"{objective}_predictor", in_dim, hidden, out, **kwargs)
