"""Weights of the official PyTorch code in our networks, and back.

Every variable of ours has one official name. Arrays come in two layouts: "torch" as in a
checkpoint (convolutions OIHW, matrices (out, in)), and "keras", the same plainly transposed
(HWIO, (in, out)), as the golden files have them. Beyond the transposition, the U-Net's flat
bottleneck is ordered C,H,W there and H,W,C here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import keras
import numpy as np

from adios_tf.errors import UserError
from adios_tf.registry import check_choice

Layout = Literal["torch", "keras"]


def to_keras_layout(array: np.ndarray) -> np.ndarray:
    """OIHW to HWIO and (out, in) to (in, out); other ranks are the same in both layouts."""
    return array.transpose({2: (1, 0), 4: (2, 3, 1, 0)}.get(array.ndim, range(array.ndim)))


def to_torch_layout(array: np.ndarray) -> np.ndarray:
    """The inverse of `to_keras_layout`."""
    return array.transpose({2: (1, 0), 4: (3, 2, 0, 1)}.get(array.ndim, range(array.ndim)))


@dataclass(frozen=True)
class Entry:
    """One variable of ours and the official array that it is.

    In the variable's value the official array, in "keras" layout, has its `axis` in this order.
    """

    official_name: str
    variable: keras.Variable
    order: np.ndarray | None = None
    axis: int = 0

    def to_keras(self, array: np.ndarray) -> np.ndarray:
        """The variable's value from the official array in "keras" layout."""
        return array if self.order is None else np.take(array, self.order, self.axis)

    def from_keras(self, value: np.ndarray) -> np.ndarray:
        """The inverse of `to_keras`."""
        return value if self.order is None else np.take(value, np.argsort(self.order), self.axis)

    def to_torch(self, value: np.ndarray) -> np.ndarray:
        """The official array in "torch" layout."""
        return np.ascontiguousarray(to_torch_layout(self.from_keras(value)))

    def from_torch(self, array: np.ndarray) -> np.ndarray:
        """The variable's value from the official array in "torch" layout."""
        return self.to_keras(to_keras_layout(array))


def official_mapping(model: keras.Model, kind: str, prefix: str | None = None) -> list[Entry]:
    """Returns an entry for every variable of `model`.

    Args:
      model: what `build_unet`, `build_encoder` or `build_head` gave.
      kind: "unet" (ADIOS's mask_encoder and mask_head), "resnet" (torchvision's names), "vit"
        (timm's names), "projector" or "predictor" (numbered as in the official nn.Sequential),
        "dense" (one dense layer: the online classifier). `UserError` if the model is of another.
      prefix: what stands before the names; by default the official attribute's name and a dot
        ("encoder.", "projector.", "predictor."; none for the U-Net; "classifier" without the dot
        for "dense"). The EMA copies have "momentum_encoder.", "momentum_projector.".
    """
    kinds = {
        "unet": (_unet, ""),
        "resnet": (_resnet, "encoder."),
        "vit": (_vit, "encoder."),
        "projector": (_head, "projector."),
        "predictor": (_head, "predictor."),
        "dense": (_dense, "classifier"),
    }
    check_choice("kind of official weights", kind, kinds)
    entries, default = kinds[kind]
    prefix = default if prefix is None else prefix
    mapping = [replace(e, official_name=prefix + e.official_name) for e in entries(model)]
    unmatched = {v.path for v in model.weights} - {e.variable.path for e in mapping}
    if unmatched:
        raise UserError(
            f"model {model.name} is no {kind} of the official code: {sorted(unmatched)[0]} has no "
            "official name"
        )
    return mapping


def weights_from_official(
    model: keras.Model,
    kind: str,
    arrays: Mapping[str, np.ndarray],
    *,
    layout: Layout = "torch",
    prefix: str | None = None,
) -> set[str]:
    """Sets all weights of `model` from official arrays, and returns the names that it used.

    For model, kind and prefix see `official_mapping`; `arrays` is {official name: array} in that
    layout, and others than the model's may be among them. `UserError` where an array is missing or
    has another shape (nothing is changed then), or the model pads its convolutions as Keras does
    and would give other features with these weights.
    """
    if kind == "resnet" and not pads_as_torch(model):
        raise UserError(
            f"model {model.name} pads as Keras does and would give other features with "
            "PyTorch's weights: build it with padding='torch'"
        )
    entries = {e.official_name: e for e in official_mapping(model, kind, prefix)}
    missing = sorted(set(entries) - set(arrays))
    if missing:
        raise UserError(
            f"{len(missing)} official weights of the {kind} are missing, {missing[0]} among them: "
            "is the architecture right?"
        )
    values = []
    for name, entry in entries.items():
        array = np.asarray(arrays[name])
        if layout == "keras":
            array = to_torch_layout(array)
        # Compared before the change, which cannot be made to an array of another shape.
        expected = entry.to_torch(np.empty(entry.variable.shape, np.uint8)).shape
        if array.shape != expected:
            raise UserError(
                f"official weight {name} has shape {array.shape}, the {kind} needs {expected}: "
                "is the architecture right?"
            )
        values.append((entry.variable, entry.from_torch(array)))
    for variable, value in values:
        variable.assign(value)
    return set(entries) | (_counters(entries) & set(arrays))


def weights_to_official(
    model: keras.Model, kind: str, *, prefix: str | None = None
) -> dict[str, np.ndarray]:
    """Returns {official name: array} of all weights of `model` in "torch" layout.

    BatchNorm's counters `num_batches_tracked`, which Keras does not keep, are 0. `UserError` where
    the model is not of that kind.
    """
    arrays = {
        e.official_name: e.to_torch(keras.ops.convert_to_numpy(e.variable))
        for e in official_mapping(model, kind, prefix)
    }
    return arrays | {name: np.zeros((), np.int64) for name in _counters(arrays)}


def _counters(names: Iterable[str]) -> set[str]:
    suffix = "running_var"
    return {n.removesuffix(suffix) + "num_batches_tracked" for n in names if n.endswith(suffix)}


def pads_as_torch(model: keras.Model) -> bool:
    """Whether the strided convolutions of an encoder pad all sides alike, as PyTorch's do."""
    return not any(
        isinstance(layer, keras.layers.Conv2D)
        and layer.padding == "same"
        and layer.strides[0] > 1
        and layer.kernel_size[0] > 1
        for layer in model.layers
    )


def _layer(layer: keras.layers.Layer, name: str) -> Iterator[Entry]:
    """Entries of a convolution, dense or normalization layer called `name` officially."""
    attributes = {
        "weight": ("kernel", "gamma"),
        "bias": ("bias", "beta"),
        "running_mean": ("moving_mean",),
        "running_var": ("moving_variance",),
    }
    for official, ours in attributes.items():
        for attribute in ours:
            variable = getattr(layer, attribute, None)
            if variable is not None:
                yield Entry(f"{name}.{official}", variable)


def _unet(model: keras.Model) -> Iterator[Entry]:
    height, width, channels = model.get_layer("unflatten").target_shape
    # From a flat C,H,W axis to H,W,C.
    order = np.arange(height * width * channels).reshape(channels, height, width)
    order = order.transpose(1, 2, 0).ravel()
    places = {"conv": 0, "norm": 1}
    for layer in model.layers:
        if match := re.fullmatch(r"(down|up)_(\d+)_(conv|norm)", layer.name):
            side, index, part = match.groups()
            yield from _layer(layer, f"mask_encoder.{side}.{index}.{places[part]}")
        elif match := re.fullmatch(r"mlp_(\d)", layer.name):
            index = int(match[1])
            for entry in _layer(layer, f"mask_encoder.mlp.{2 * index + 1}"):
                axis = {0: 0, 2: -1}.get(index)
                same = axis is None or (axis == 0 and entry.official_name.endswith("bias"))
                yield entry if same else replace(entry, order=order, axis=axis)
        elif layer.name == "mask_logits":
            yield from _layer(layer, "mask_head.0")


def _resnet(model: keras.Model) -> Iterator[Entry]:
    for layer in model.layers:
        if match := re.fullmatch(r"conv1_(conv|bn)", layer.name):
            yield from _layer(layer, f"{match[1]}1")
        elif match := re.fullmatch(r"v2_stack_(\d)_block(\d+)_(\d)_(conv|bn)", layer.name):
            stack, block, place, part = match.groups()
            name = f"{part}{place}" if place != "0" else f"downsample.{int(part == 'bn')}"
            yield from _layer(layer, f"layer{int(stack) + 1}.{int(block) - 1}.{name}")


_BLOCK = {
    "norm1": "norm1",
    "qkv": "attn.qkv",
    "proj": "attn.proj",
    "norm2": "norm2",
    "mlp1": "mlp.fc1",
    "mlp2": "mlp.fc2",
}


def _vit(model: keras.Model) -> Iterator[Entry]:
    for layer in model.layers:
        block = re.fullmatch(r"block_(\d+)_(\w+)", layer.name)
        if layer.name == "patch_embedding":
            yield from _layer(layer, "patch_embed.proj")
        elif layer.name == "tokens":
            yield Entry("cls_token", layer.class_token)
            yield Entry("pos_embed", layer.positions)
        elif layer.name == "norm":
            yield from _layer(layer, "norm")
        elif isinstance(layer, keras.layers.MultiHeadAttention):
            raise UserError(
                f"encoder {model.name} was saved by an earlier version, with query, key and value "
                "apart, which has no official form: evaluate it as it is, or pretrain it anew"
            )
        elif block and block[2] in _BLOCK:
            yield from _layer(layer, f"blocks.{block[1]}.{_BLOCK[block[2]]}")


def _head(model: keras.Model) -> Iterator[Entry]:
    steps = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    for index, layer in enumerate(steps):
        yield from _layer(layer, str(index))


def _dense(model: keras.Model) -> Iterator[Entry]:
    for layer in model.layers:
        yield from _layer(layer, "")
