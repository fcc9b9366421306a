"""Which networks a PyTorch checkpoint holds: the layouts of ADIOS and of MoCo v2 / MixMask.

A layout is a list of parts; a part is one of our networks, the kind that `nets.torch_weights` knows
it by, and the prefix of its names in the checkpoint.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np

from adios_tf.data.catalog import CATALOG, IMAGENET
from adios_tf.encoders import BACKBONES, build_encoder
from adios_tf.errors import UserError
from adios_tf.nets import build_head, build_predictor, build_projector, build_unet, has_predictor
from adios_tf.nets.heads import Dense
from adios_tf.registry import check_choice

Layout = Literal["adios", "moco"]
METHODS = ("simclr", "byol", "simsiam")
_MOCO = re.compile(r"(module\.)?encoder_q\.")


@dataclasses.dataclass(frozen=True)
class Part:
    """One network: its place in the model folder, its kind for `nets.torch_weights`, its names."""

    name: str
    kind: str
    prefix: str
    model: keras.Model


@dataclasses.dataclass(frozen=True)
class Plan:
    """All networks of a checkpoint, and the facts that go beside them into the run folder."""

    layout: Layout
    parts: tuple[Part, ...]
    info: dict[str, Any]


def layout_of(names: Sequence[str]) -> Layout:
    """Returns the layout that the names of a state_dict belong to; `UserError` if to neither."""
    if any(_MOCO.match(name) for name in names):
        return "moco"
    known = ("encoder.", "projector.", "mask_encoder.")
    if any(name.startswith(known) for name in names):
        return "adios"
    first = next(iter(names), "none at all")
    raise UserError(
        f"neither ADIOS's names (encoder., projector., mask_encoder.) nor MoCo's (encoder_q.) "
        f"are in the checkpoint; its first name is {first}"
    )


def adios_plan(args: Mapping[str, Any], names: Sequence[str]) -> Plan:
    """Builds the networks that an official `args.json` describes.

    Read of `args` are method, encoder, img_size, cifar, dataset, widths, N, ...; the optional
    networks are built where their names are among those of the state_dict. `UserError` for a
    missing or senseless setting, or a network that we do not have.
    """

    def given(key: str) -> Any:
        if args.get(key) is None:
            raise UserError(f"--args does not say {key}: is it the args.json of this checkpoint?")
        return args[key]

    method = str(given("method"))
    objective = method.split("_")[0]
    check_choice("method in --args", objective, METHODS)
    backbone, side = str(given("encoder")), _side(args)
    check_choice("encoder in --args", backbone, BACKBONES)
    options: dict[str, Any] = {}
    if backbone.startswith("resnet"):
        options = {"stem": "adios_cifar" if args.get("cifar") else "imagenet", "padding": "torch"}
    elif backbone.startswith("vit"):
        options = {"patch": 16}
    kind = "vit" if backbone.startswith("vit") else "resnet"
    hidden, out = int(given("proj_hidden_dim")), int(given("output_dim"))

    def there(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in names)

    def networks(ours: str, official: str) -> list[Part]:
        encoder = build_encoder(backbone, side, **options)
        projector = build_projector(objective, encoder.output_shape[-1], hidden, out)
        return [
            Part(f"{ours}encoder", kind, f"{official}encoder.", encoder),
            Part(f"{ours}projector", "projector", f"{official}projector.", projector),
        ]

    parts = networks("", "")
    if has_predictor(objective):
        predictor = build_predictor(objective, out, int(given("pred_hidden_dim")), out)
        parts.append(Part("predictor", "predictor", "predictor.", predictor))
    if objective == "byol":
        parts += networks("target_", "momentum_")
    masks = 0
    if "adios" in method or there("mask_"):
        masks = int(given("N"))
        unet = build_unet(
            side,
            masks,
            base=int(given("mask_fbase")),
            norm=given("unet_norm"),
            num_blocks=args.get("num_blocks"),
        )
        parts.append(Part("masker", "unet", "", unet))
    if there("classifier."):
        width = parts[0].model.output_shape[-1]
        linear = (Dense("out", relu=False),)
        classifier = build_head(linear, width, 1, int(given("n_classes")), name="classifier")
        parts.append(Part("classifier", "dense", "classifier", classifier))
    masking = "none"
    if masks:
        masking = "adversarial_one" if method.endswith("_s") else "adversarial"
    dataset, encoder = str(args.get("dataset", "unknown")), {"backbone": backbone, **options}
    info = _info(dataset, side, args, encoder, objective, hidden, out, method)
    return Plan("adios", tuple(parts), info | {"masking": masking, "num_masks": masks})


def moco_plan(
    arch: str | None, state: Mapping[str, np.ndarray], image_size: int, dataset: str
) -> Plan:
    """Builds the networks of MoCo v2's own checkpoints, which MixMask's have too.

    The widths of the head are read off its matrices; one layer (MoCo v1) is a projector too. `arch`
    is the file's own word for the encoder, resnet18, 34 or 50 (None = by the weights), `dataset`
    that whose normalization it was trained with. `UserError` for an unknown encoder, or no head.
    """
    # "module." in files of several processes
    prefix = next(match[1] or "" for name in state if (match := _MOCO.match(name)))
    arch = arch or _resnet_of(state, prefix)
    if arch not in BACKBONES or not arch.startswith("resnet"):
        raise UserError(
            f"the checkpoint's encoder {arch!r} is none of resnet18, resnet34, resnet50"
        )
    options = {"stem": "imagenet", "padding": "torch"}
    first = state.get(f"{prefix}encoder_q.conv1.weight")
    if first is not None and first.shape[-1] == 3:
        options["stem"] = "small"
    head = [f"{prefix}encoder_q.fc.{i}.weight" for i in (0, 2)]
    single = f"{prefix}encoder_q.fc.weight"
    if all(name in state for name in head):
        (hidden, width), (out, _) = (state[name].shape for name in head)
        rows: Any = "moco_projector"
    elif single in state:
        out, width = state[single].shape
        hidden, rows = out, (Dense("out", relu=False),)
    else:
        raise UserError(f"the checkpoint has no head: neither {head[0]} nor {single} is in it")
    kind, dot = ("projector", ".") if rows == "moco_projector" else ("dense", "")
    parts = []
    for ours, side in (("", "q"), ("target_", "k")):
        official = f"{prefix}encoder_{side}."
        encoder = build_encoder(arch, image_size, **options)
        parts.append(Part(f"{ours}encoder", "resnet", official, encoder))
        projector = build_head(rows, width, hidden, out, name=f"projector_{side}")
        parts.append(Part(f"{ours}projector", kind, f"{official}fc{dot}", projector))
    numbers = {"std": (0.229, 0.224, 0.225)}
    encoder = {"backbone": arch, **options}
    info = _info(dataset, image_size, numbers, encoder, "moco", hidden, out, "moco")
    return Plan("moco", tuple(parts), info)


def _resnet_of(state: Mapping[str, np.ndarray], prefix: str) -> str:
    stage = f"{prefix}encoder_q.layer3."
    blocks = {name.removeprefix(stage).split(".")[0] for name in state if name.startswith(stage)}
    wide = f"{stage}0.conv3.weight" in state
    return {(2, False): "resnet18", (6, False): "resnet34", (6, True): "resnet50"}.get(
        (len(blocks), wide), "unknown"
    )


def _side(args: Mapping[str, Any]) -> int:
    side = args.get("img_size") or args.get("size")
    if isinstance(side, list):
        side = side[0] if len(set(side)) == 1 else None
    if not isinstance(side, int) or side < 1:
        raise UserError("--args does not say img_size, the side of the images")
    return side


def _info(
    dataset: str,
    image_size: int,
    args: Mapping[str, Any],
    encoder: Mapping[str, Any],
    objective: str,
    hidden_dim: int,
    output_dim: int,
    recipe: str,
) -> dict[str, Any]:
    """Returns the facts of a plan without masks.

    The official code normalizes a known data set by its own numbers, others by the arguments'.
    """
    if dataset in CATALOG:
        mean, std = CATALOG[dataset].mean, CATALOG[dataset].std
    else:
        mean, std = args.get("mean") or IMAGENET[0], args.get("std") or IMAGENET[1]
    return {
        "dataset": dataset,
        "image_size": image_size,
        "mean": [float(v) for v in mean],
        "std": [float(v) for v in std],
        **encoder,
        "objective": objective,
        "masking": "none",
        "fill": "erase",
        "num_masks": 0,
        "hidden_dim": hidden_dim,
        "output_dim": output_dim,
        "recipe": recipe,
    }
