"""From settings to networks: encoder, objective, masking, optimizers, Pretrainer."""

import contextlib
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import keras

from adios_tf import pretrained
from adios_tf.encoders import BACKBONES, as_encoder, build_encoder
from adios_tf.encoders.names import BACKBONE_LINES
from adios_tf.masking import FILLS, MASKINGS, Masking
from adios_tf.nets import build_unet
from adios_tf.nets.filters import build_high_pass
from adios_tf.objectives import OBJECTIVES, Objective
from adios_tf.objectives.base import copy_of
from adios_tf.optimizers import build_optimizer
from adios_tf.registry import construct, parameters
from adios_tf.schedules import build_schedule
from adios_tf.training.config import PretrainConfig
from adios_tf.training.methods import check_combination, own_parameters
from adios_tf.training.pretrainer import Pretrainer
from adios_tf.training.probe import Probe

_VIEWS = {"auto": None, "second": (2,), "both": (1, 2)}


def build_masking(config: PretrainConfig, settings: dict[str, Any]) -> Masking:
    """Returns the masking that the settings name, with its masker where it trains one."""
    policy = MASKINGS[config.masking]
    given = {}
    if policy.trains:
        given["masker"] = build_unet(
            config.image_size,
            policy.masker_outputs(config.num_masks),
            base=config.masker_base,
            norm=config.masker_norm,
            num_blocks=config.masker_blocks or None,
            in_channels=policy.masker_inputs,
        )
    return construct(policy, settings, **given)


def build_objective(
    config: PretrainConfig, settings: dict[str, Any], encoder: keras.Model | None = None
) -> Objective:
    """Returns the objective that the settings name, around the encoder or a fresh backbone."""
    if encoder is None:
        named = parameters(BACKBONES[config.backbone])
        own = {n: value for n, value in own_parameters(config).items() if n in named}
        encoder = build_encoder(
            config.backbone, config.image_size, stem=config.stem, padding=config.padding, **own
        )
    else:
        encoder = as_encoder(copy_of(encoder), config.image_size)
    return construct(OBJECTIVES[config.objective], settings, encoder=encoder)


def build_pretrainer(
    config: PretrainConfig,
    steps_per_epoch: int,
    num_classes: int | None,
    encoder: keras.Model | None = None,
) -> Pretrainer:
    """Returns a compiled Pretrainer with fresh weights that depend on the seed alone.

    Args:
      config: `image_size` must be set.
      steps_per_epoch: batches per epoch, for the schedules.
      num_classes: of the labels that the online probe learns; None = no probe.
      encoder: a model to train a copy of, instead of a fresh backbone.

    Raises:
      UserError: an unknown name, or a combination that makes no sense.
    """
    check_combination(config)
    keras.utils.set_random_seed(config.seed)
    settings = dataclasses.asdict(config) | {"total_steps": config.epochs * steps_per_epoch}
    settings |= own_parameters(config)
    objective = build_objective(config, settings, encoder)
    masking = build_masking(config, settings)
    model = Pretrainer(
        objective,
        masking,
        fill=construct(FILLS[config.fill], settings),
        masked_views=_VIEWS[config.masked_views],
        clean_weight=None if config.clean_weight < 0 else config.clean_weight,
        slot_reduction=None if config.slot_reduction == "auto" else config.slot_reduction,
        update=config.update,
        probe=Probe(objective.encoder.output_shape[-1], num_classes) if num_classes else None,
        occluded_keys=config.occluded_keys,
        input_filter=(
            build_high_pass(config.image_size, config.high_pass) if config.high_pass else None
        ),
        lean_memory=config.lean_memory,
        seed=config.seed,
    )

    def optimizer(rate: float, constant: bool = False) -> keras.optimizers.Optimizer:
        schedule = build_schedule(
            "constant" if constant else config.schedule,
            rate,
            config.epochs,
            steps_per_epoch,
            warmup_epochs=config.warmup_epochs,
            warmup_start=config.warmup_start,
            per_epoch=config.schedule_per_epoch,
            milestones=config.milestones,
        )
        return build_optimizer(
            config.optimizer,
            schedule,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            eta=config.lars_eta,
            clip=config.lars_clip,
            accumulation_steps=config.accumulate,
        )

    predictor_optimizer = None
    if config.constant_predictor and objective.predictor is not None:
        predictor_optimizer = optimizer(config.learning_rate, constant=True)
    model.compile(
        optimizer(config.learning_rate),
        optimizer(config.masker_learning_rate) if masking.trained_variables() else None,
        predictor_optimizer=predictor_optimizer,
        probe_optimizer=keras.optimizers.SGD(config.probe_learning_rate, momentum=0.9),
        jit_compile=config.xla,
    )
    if config.backbone not in BACKBONE_LINES:
        # What cannot be read is not worth training; a full disk is told when the run writes. Last,
        # since reading draws random weights.
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory() as folder:
            objective.encoder.save(Path(folder) / "encoder.keras")
            pretrained.read_part(Path(folder) / "encoder.keras")
    return model
