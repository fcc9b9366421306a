"""The published protocols of linear evaluation and fine-tuning, as settings.

Sources: ADIOS's bash_files/evaluation/{linear,finetune}.sh with what main_linear.py,
main_finetune.py and classification_dataloader.py do; MixMask's main_lincls.py, which has no
fine-tuning. Those scripts train in half precision, where pytorch-lightning 1.4.7 computes
gradients before the optimizer step and LARS works. In 32 bits it computes them within the step,
and LARS and weight decay have no effect: that is `adios_32bit`.
"""

from typing import Any

_ADIOS: dict[str, Any] = {
    "protocols": ("linear_augmented", "finetune"),
    "interpolation": "bilinear",
    "sgd_learning_rates": (0.1,),
    "sgd_epochs": 100,
    "sgd_decay_epochs": (60, 80),
    "sgd_batch_size": 128,
    "sgd_min_scale": 0.08,
    "sgd_optimizer": "lars",
    "sgd_eta": 0.001,
    "sgd_clip": False,
    "sgd_weight_decay": 0.0,
    "sgd_head": "uniform",
    "sgd_standardize": False,
    "sgd_drop_last": True,
    "sgd_report": "last",
    "finetune_learning_rate": 0.5,
    "finetune_epochs": 200,
    "finetune_steps": 1,
    "finetune_warmup_epochs": 10.0,
    "finetune_schedule_per_epoch": True,
    "finetune_batch_size": 128,
    "finetune_min_scale": 0.08,
    "finetune_optimizer": "lars",
    "finetune_eta": 0.001,
    "finetune_clip": False,
    "finetune_weight_decay": 5e-4,
    "finetune_head": "uniform",
    "finetune_drop_last": True,
    "batchnorm": "frozen",
}
PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "adios": _ADIOS,
    "adios_32bit": _ADIOS
    | {"sgd_optimizer": "sgd", "finetune_optimizer": "sgd", "finetune_weight_decay": 0.0},
    "mixmask": {
        "protocols": ("linear_augmented",),
        "interpolation": "bilinear",
        "resize": "center_crop",
        "crop_ratio": 224 / 256,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "sgd_learning_rates": (30.0,),
        "sgd_epochs": 100,
        "sgd_decay_epochs": (60, 80),
        "sgd_batch_size": 256,
        "sgd_augmentation": "crop",
        "sgd_min_scale": 0.08,
        "sgd_optimizer": "sgd",
        "sgd_weight_decay": 0.0,
        "sgd_head": "normal",
        "sgd_standardize": False,
        "sgd_drop_last": False,
        "sgd_report": "best",
    },
}

# Flags of how images are prepared, with the value that leaves it to the preset or the run.
_UNSAID: dict[str, Any] = {
    "image_size": 0,
    "mean": (),
    "std": (),
    "resize": "auto",
    "crop_ratio": 0.0,
    "finetune_stem": "auto",
}
_CIFAR = {"mean": (0.5071, 0.4867, 0.4408), "std": (0.2675, 0.2565, 0.2761)}


def on_dataset(preset: str, dataset: str) -> dict[str, Any]:
    """Returns what a preset says of the images of a data set: ADIOS treats each in its own way.

    STL-10 is resized as a whole, of ImageNet the shorter side becomes 256 pixels of which the
    central square is kept, CIFAR keeps its 32 pixels, is normalized by other numbers than in
    pretraining and gets another stem in fine-tuning.
    """
    if not preset.startswith("adios"):
        return {}
    from adios_tf.data.catalog import describe  # not above: --help does not wait for TensorFlow

    info = describe(dataset)
    own = {"image_size": info.image_size, "mean": info.mean, "std": info.std}
    if info.name in ("cifar10", "cifar100"):
        return own | _CIFAR | {"resize": "squash", "finetune_stem": "adios_cifar"}
    if info.name == "stl10":
        return own | {"resize": "squash"}
    if info.tfds_name.startswith("imagenet2012"):
        return own | {"resize": "center_crop", "crop_ratio": info.image_size / 256}
    return {}


def image_settings(config: Any, info: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of `_UNSAID` with a value each: given, or the preset's, or ours.

    `config` is an `EvaluateConfig` whose data set is named, `info` the facts of the pretrained
    model.
    """
    pretrained = {name: info[name] for name in ("image_size", "mean", "std")}
    ours = {"resize": "squash", "crop_ratio": 0.875, "finetune_stem": "keep"}
    given = {n: getattr(config, n) for n, none in _UNSAID.items() if getattr(config, n) != none}
    return pretrained | ours | on_dataset(config.protocol_preset, config.dataset) | given


def preset_line(config: Any) -> str:
    """Returns what the preset set, and what was given otherwise, in one line."""
    preset = PRESETS[config.protocol_preset] | on_dataset(config.protocol_preset, config.dataset)
    kept, changed = [], []
    for name, value in preset.items():
        chosen = getattr(config, name)
        followed = chosen in (value, _UNSAID.get(name, value))
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        if followed:
            kept.append(f"{name}={text}")
        else:
            changed.append(name)
    line = f"--protocol_preset={config.protocol_preset} sets {' '.join(kept)}"
    return line + (f"; given otherwise: {', '.join(changed)}" if changed else "")
