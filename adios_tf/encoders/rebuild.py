"""Makes the papers' encoder out of a keras-cv backbone: stem, padding, BatchNorm, first weights.

keras-cv's networks are functional models. They are traversed once and rebuilt with other
layers where ours differ; blocks that keras-cv wraps into one layer are unfolded on the way.
What comes out has plain Keras layers only, and reloads without keras-cv and without adios_tf.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

import keras

from adios_tf.nets.initializers import kaiming_kernel


@dataclass(frozen=True)
class Family:
    """What is peculiar to one of keras-cv's networks.

    `network` is the name of its class in `keras_cv.models`; `stem` the first convolution's name;
    `shrinks` the factor by which the side falls before the first block; `drops` the layers that
    the stem for small images goes without; `fan` the mode of torchvision's He initialization.
    """

    network: str
    stem: str
    shrinks: int
    drops: tuple[str, ...] = ()
    fan: Literal["fan_in", "fan_out"] = "fan_out"


@dataclass(frozen=True)
class Plan:
    """What to change in a backbone; see `build_encoder`."""

    stem: str
    padding: str
    batchnorm: dict[str, Any]


def rebuild(
    backbone: keras.Model, inputs: keras.KerasTensor, family: Family, plan: Plan
) -> keras.KerasTensor:
    """Returns the feature maps [B,h,w,D] of `backbone`, rebuilt as `plan` says, for `inputs`.

    Convolutions that have Keras's default kernel get the He initialization of torchvision.
    """
    traversal = _Traversal(backbone, family, plan)
    return keras.models.clone_model(
        backbone, input_tensors=inputs, clone_function=traversal.clone, call_function=traversal.call
    ).output


class _Traversal:
    """One traversal of a backbone: `clone` renews a layer, `call` applies it."""

    def __init__(self, backbone: keras.Model, family: Family, plan: Plan):
        self.plan = plan
        self.family = family
        self.drops = () if plan.stem == "imagenet" else family.drops
        self.bottleneck = getattr(backbone, "block_type", None) == "block"
        self.pads: dict[str, int] = {}

    def clone(self, layer: keras.Operation) -> keras.Operation:
        config = layer.get_config()
        if isinstance(layer, keras.layers.BatchNormalization):
            config |= self.plan.batchnorm
        elif isinstance(layer, keras.layers.Conv2D):
            config |= self._convolution(layer)
        elif isinstance(layer, keras.layers.MaxPooling2D):
            config |= self._padding(layer.name, layer.pool_size[0], layer.strides[0])
        elif type(layer).__name__ == "SqueezeAndExcite2D":
            # The activation that MobileNetV3 brings along cannot be reloaded from a file.
            config["excite_activation"] = "hard_sigmoid"
        clone = type(layer).from_config(config)
        if _is_wrapped(clone):
            for inner in clone._flatten_layers(include_self=False):
                if isinstance(inner, keras.layers.BatchNormalization):
                    for name, value in self.plan.batchnorm.items():
                        setattr(inner, name, value)
        return clone

    def call(self, layer: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        if layer.name in self.drops:
            return args[0]
        if _is_wrapped(layer):
            # Running the block's own `call` leaves its inner layers in the model, one by one.
            return layer.call(*args, **kwargs)
        if pad := self.pads.get(layer.name):
            args = (keras.layers.ZeroPadding2D(pad, name=f"{layer.name}_pad")(*args),)
        return layer(*args, **kwargs)

    def _convolution(self, layer: keras.layers.Conv2D) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        kernel, stride = layer.kernel_size[0], layer.strides[0]
        if isinstance(layer.kernel_initializer, keras.initializers.GlorotUniform):
            changes["kernel_initializer"] = kaiming_kernel(self.family.fan)
        if layer.name == self.family.stem and self.plan.stem != "imagenet":
            kernel, stride = 3, 1
            changes |= {"kernel_size": kernel, "padding": "same"}
            if self.plan.stem == "adios_cifar":
                self.pads[layer.name] = 2
                return changes | {"strides": stride, "padding": "valid"}
        if self.plan.padding == "torch":
            stride = self._torchvision_stride(layer.name, stride)
        return changes | {"strides": stride} | self._padding(layer.name, kernel, stride)

    def _torchvision_stride(self, name: str, stride: int) -> int:
        """A bottleneck strides in its 3x3 convolution in torchvision, in the 1x1 in keras-cv."""
        first = re.fullmatch(r"v2_stack_[1-9]_block1_([12])_conv", name)
        return int(first[1]) if self.bottleneck and first else stride

    def _padding(self, name: str, kernel: int, stride: int) -> dict[str, str]:
        """PyTorch pads all sides alike; Keras pads strided layers on the right and below only.

        Zeros do for a max-pool too, since it comes after a ReLU.
        """
        if self.plan.padding != "torch" or stride == 1 or kernel == 1:
            return {}
        self.pads[name] = kernel // 2
        return {"padding": "valid"}


def _is_wrapped(layer: keras.Operation) -> bool:
    return type(layer).__module__.startswith("keras_cv")
