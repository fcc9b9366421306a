"""The training step: the encoder shrinks a distance, the masker grows it.

`Pretrainer.train_step` reads like the algorithm and knows no method by name: an objective, a
masking and a fill say what to do. Shapes: B images per replica of side S, N mask slots.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from adios_tf import distribution
from adios_tf.errors import UserError
from adios_tf.masking import FILLS, Fill, Masking
from adios_tf.masking.base import Masks
from adios_tf.nets.normalization import use_fast_kernels
from adios_tf.objectives import Objective
from adios_tf.serialization import Configured, serializable
from adios_tf.training.gradients import Differentiator, Result
from adios_tf.training.probe import Probe

UPDATES = ("alternating", "simultaneous")


@serializable
class Pretrainer(Configured, keras.Model):
    """Trains an encoder against a masker.

    Args:
      objective: the distance between views; holds the encoder.
      masking: what is hidden; holds the masker where one is trained.
      fill: what covers the hole, a `Fill` or its registered name.
      masked_views: which of the views 1 and 2 get an occluded copy; None = what the masking
        or else the objective ask for.
      clean_weight: weight of the objective between the two clean views; None = what the fill
        or else the masking ask for (0 for ADIOS, 1 for MixMask and without masking).
      slot_reduction: `sum` over the slots (as in the ADIOS code) or `mean`; None = the
        masking's own.
      update: `alternating` (the papers': encoder first, then the masker against the updated
        encoder) or `simultaneous` (one backward pass, the masker's gradient reversed).
      probe: an online linear classifier on features without gradient, or None.
      occluded_keys: whether the clean views are also compared with the occluded ones where the
        objective does that; otherwise an occluded view is only ever the query.
      input_filter: a fixed model [B,S,S,3] -> [B,S,S,3] that both views pass before anything
        else (the high-pass of MSCN), and every image that is evaluated.
      lean_memory: process the slots strictly one after another, so that the activations of
        only one occluded copy are alive at a time.
      seed: of every random draw inside the step; draws depend on (seed, step) alone.

    Raises:
      UserError: another `update`, `fill` or `slot_reduction` than there is.

    Call `compile` with the optimizers, then `fit` on a dataset of batches
    {"view1", "view2": [B,S,S,3] float32, "label": [B] and "mask1", "mask2": [B,S,S] optional}.
    """

    def __init__(
        self,
        objective: Objective,
        masking: Masking,
        fill: Fill | str = "erase",
        masked_views: Sequence[int] | None = None,
        clean_weight: float | None = None,
        slot_reduction: str | None = None,
        update: str = "alternating",
        probe: Probe | None = None,
        occluded_keys: bool = True,
        input_filter: keras.Model | None = None,
        lean_memory: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if update not in UPDATES:
            raise UserError(f"update must be one of {', '.join(UPDATES)}, got {update!r}")
        self.objective, self.masking, self.probe = objective, masking, probe
        self.fill = FILLS[fill]() if isinstance(fill, str) else fill
        self.update, self.seed, self.input_filter = update, seed, input_filter
        views = masked_views or masking.masked_views or objective.masked_views
        views = tuple(views) if masking.num_masks else ()
        if clean_weight is None:
            asked_by_fill = self.fill.clean_weight if views else None
            clean_weight = masking.clean_weight if asked_by_fill is None else asked_by_fill
        self.differentiator = Differentiator(
            objective,
            self.fill,
            views,
            clean_weight,
            slot_reduction or masking.slot_reduction,
            occluded_keys,
            probe,
            lean_memory,
        )
        self.masked_views = views
        use_fast_kernels(self)
        self.step = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="step"
        )
        names = ["distance", "encoder_gradient_norm"]
        if masking.trained_variables():
            names += ["masker_objective", "penalty", "masker_gradient_norm"]
        names += ["probe_loss", "probe_accuracy"] if probe is not None else []
        self._means = {name: keras.metrics.Mean(name) for name in names}
        self.waiting_since: float | None = None  # for the next batch, by the monotonic clock
        self.stopping = False  # whether this worker is to stop; after an update, whether any is
        self.built = True

    # ------------------------------------------------------------------ the algorithm

    def train_step(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One update of encoder and masker on this replica's part of the global batch."""
        batch, seeds = self._filtered(batch), self._seeds()

        with tf.GradientTape() as masker_tape:
            masks = self._masks(batch, seeds["masks"])
            penalty = self.masking.penalty(masks)
            slots = self.masking.slots(masks, seeds["encoder"])
            slots_anew = self.masking.slots(masks, seeds["masker"])

        # The encoder takes a step to shrink the distance; the masks stand still.
        trains_masker = self.masker_optimizer is not None
        together = trains_masker and self.update == "simultaneous"
        ours = self._differentiate(batch, slots, seeds, encoder=True, masks=together)
        norm = self._descend_encoder(ours)
        results = {"distance": ours.distance, "encoder_gradient_norm": norm, **ours.probe}

        # The masker takes a step to grow it; the encoder, already updated, stands still.
        if trains_masker:
            theirs = ours
            if not together:
                slots = slots_anew
                theirs = self._differentiate(batch, slots, seeds, encoder=False, masks=True)
            norm = self._ascend_masker(masker_tape, slots, theirs, penalty)
            results |= {"masker_gradient_norm": norm}
            results |= {"masker_objective": theirs.distance - penalty, "penalty": penalty}

        self.objective.after_step(ours.clean, self.step)
        self.step.assign_add(1)
        return self._averaged(results)

    # ------------------------------------------------------------------ parts of the step

    def _filtered(self, batch: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        """The batch with both views through the input filter."""
        if self.input_filter is None:
            return batch
        return {**batch, **{v: self.input_filter(batch[v]) for v in ("view1", "view2")}}

    def _masks(self, batch: Mapping[str, tf.Tensor], seed: tf.Tensor) -> Masks:
        """Returns {index of the view: [B,S,S,N]} for the views that are masked."""
        return {
            index: self.masking.masks(
                batch[f"view{index}"],
                batch.get(f"mask{index}"),
                tf.random.experimental.stateless_fold_in(seed, index),
            )
            for index in self.masked_views
        }

    def _differentiate(
        self,
        batch: Mapping[str, tf.Tensor],
        slots: Sequence[Masks],
        seeds: Mapping[str, tf.Tensor],
        encoder: bool,
        masks: bool,
    ) -> Result:
        """Distance and gradients, scaled for replicas and for half precision."""
        optimizer = self.optimizer if encoder else self.masker_optimizer
        scale = optimizer.scale_loss(1.0 / distribution.count())
        slots = [{view: tf.stop_gradient(mask) for view, mask in slot.items()} for slot in slots]
        return self.differentiator(batch, slots, seeds["fill"], scale, encoder, masks)

    def _norm(self, gradients: Sequence[tf.Tensor], scale: tf.Tensor) -> tf.Tensor:
        """l2 norm of the gradient for the global batch, from those of this replica, scaled."""
        if distribution.count() > 1:
            replicas = tf.distribute.get_replica_context()
            gradients = replicas.all_reduce(tf.distribute.ReduceOp.SUM, list(gradients))
        norm = tf.linalg.global_norm(gradients)
        return norm / tf.cast(scale * distribution.count(), norm.dtype)

    def _descend_encoder(self, result: Result) -> tf.Tensor:
        """Moves encoder, heads and probe; returns the gradient's norm without the probe's."""
        groups = self._encoder_groups()
        gradients = iter(result.encoder)
        for optimizer, variables in groups:
            optimizer.apply([next(gradients) for _ in variables], variables)
        probe = len(self.probe.trainable_variables) if self.probe is not None else 0
        return self._norm(result.encoder[: len(result.encoder) - probe], result.scale)

    def _ascend_masker(
        self, tape: tf.GradientTape, slots: Sequence[Masks], result: Result, penalty: tf.Tensor
    ) -> tf.Tensor:
        """Moves the masker and returns its gradient's norm.

        Chains the distance's gradient, reversed, with the masker's, and adds the penalty's.
        """
        scale = self.masker_optimizer.scale_loss(1.0 / distribution.count())
        reverse = -scale / result.scale
        targets = [slot[view] for slot in slots for view in self.masked_views]
        uphill = [
            tf.cast(reverse, slot[view].dtype) * slot[view]
            for slot in result.slots
            for view in self.masked_views
        ]
        variables = self.masking.trained_variables()
        gradients = tape.gradient(
            [*targets, penalty],
            variables,
            [*uphill, tf.cast(scale, penalty.dtype)],
            unconnected_gradients="zero",
        )
        self.masker_optimizer.apply(gradients, variables)
        return self._norm(gradients, scale)

    def _seeds(self) -> dict[str, tf.Tensor]:
        """Seeds that depend on (seed, step) alone, so that a resumed run repeats them."""
        now = tf.stack([tf.constant(self.seed, tf.int64), tf.convert_to_tensor(self.step)])
        names = ("masks", "encoder", "masker", "fill")
        fold = tf.random.experimental.stateless_fold_in
        return {name: tf.cast(fold(now, n), tf.int32) for n, name in enumerate(names)}

    def _averaged(self, results: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        half = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
        for name, value in results.items():
            if half and name.endswith("gradient_norm"):  # it leaves steps that overflow out
                finite = tf.math.is_finite(value)
                value = tf.where(finite, value, 0.0)
                self._means[name].update_state(value, tf.cast(finite, value.dtype))
            else:
                self._means[name].update_state(value)
        return self.epoch_means()

    def epoch_means(self) -> dict[str, tf.Tensor]:
        """Means of what the steps of this epoch have returned so far."""
        return {name: mean.result() for name, mean in self._means.items()}

    # ------------------------------------------------------------------ what Keras asks for

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer,
        masker_optimizer: keras.optimizers.Optimizer | None = None,
        predictor_optimizer: keras.optimizers.Optimizer | None = None,
        probe_optimizer: keras.optimizers.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Gives each side its optimizer and builds them, so that checkpoints restore them.

        Args:
          optimizer: of encoder and projector.
          masker_optimizer: of the masker; required where the masking trains one.
          predictor_optimizer: of the predictor; None = `optimizer`. SimSiam keeps its rate
            constant.
          probe_optimizer: of the probe; None = SGD at 0.1 with momentum 0.9.
          **kwargs: `run_eagerly`, `jit_compile` of `keras.Model.compile`.

        Raises:
          UserError: the masking trains a masker and `masker_optimizer` is missing.
        """
        trains_masker = bool(self.masking.trained_variables())
        if trains_masker and masker_optimizer is None:
            raise UserError("this masking trains a masker: give compile a masker_optimizer too")
        kwargs.setdefault("jit_compile", False)
        half = keras.mixed_precision.dtype_policy().name == "mixed_float16"

        def prepared(given: keras.optimizers.Optimizer | None) -> Any:
            wrapped = isinstance(given, keras.optimizers.LossScaleOptimizer)
            if given is None or wrapped or not half:
                return given
            return keras.optimizers.LossScaleOptimizer(given)

        super().compile(optimizer=prepared(optimizer), auto_scale_loss=False, **kwargs)
        self.masker_optimizer = prepared(masker_optimizer) if trains_masker else None
        self.predictor_optimizer = prepared(predictor_optimizer)
        self.probe_optimizer = None
        if self.probe is not None:
            self.probe_optimizer = probe_optimizer or keras.optimizers.SGD(0.1, momentum=0.9)
        for group, variables in self._encoder_groups():
            group.build(variables)
        if self.masker_optimizer is not None:
            self.masker_optimizer.build(self.masking.trained_variables())

    def get_compile_config(self) -> dict[str, Any] | None:
        """The optimizers, so that a `.keras` file goes on training where it was saved."""
        if not self.compiled:
            return None
        names = [f"{part}optimizer" for part in ("", "masker_", "predictor_", "probe_")]
        config = {n: keras.saving.serialize_keras_object(getattr(self, n)) for n in names}
        return config | {"run_eagerly": self.run_eagerly, "jit_compile": self.jit_compile}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        read = keras.saving.deserialize_keras_object
        self.compile(**{name: read(value) for name, value in config.items()})

    def _encoder_groups(self) -> list[tuple[keras.optimizers.Optimizer, list[keras.Variable]]]:
        """The encoder side's optimizers, each with its variables, in the order of gradients."""
        body = self.objective.trained_variables()
        predictor = self.objective.predictor_variables()
        if self.predictor_optimizer is None or not predictor:
            groups = [(self.optimizer, body + predictor)]
        else:
            groups = [(self.optimizer, body), (self.predictor_optimizer, predictor)]
        if self.probe is not None:
            groups.append((self.probe_optimizer, self.probe.trainable_variables))
        return groups

    def call(self, images: Any, training: bool = False) -> tf.Tensor:
        """Features of normalized images, [B,S,S,3] or a batch of `fit`, -> [B,D]."""
        if isinstance(images, Mapping):
            images = images["view1"]
        return self.inference_encoder(images, training=training)

    @property
    def inference_encoder(self) -> keras.Model:
        """What is evaluated and saved: normalized images [B,S,S,3] -> features [B,D]."""
        return self._behind_filter(self.objective.encoder)

    def inference_masker(self, image_size: int) -> keras.Model | None:
        """What is saved of the masker: normalized images [B,S,S,3] -> masks [B,S,S,N]."""
        masker = self.masking.inference_model(image_size)
        return masker if masker is None else self._behind_filter(masker)

    def _behind_filter(self, model: keras.Model) -> keras.Model:
        if self.input_filter is None:
            return model
        images = keras.Input(self.input_filter.input_shape[1:])
        return keras.Model(images, model(self.input_filter(images)), name=model.name)

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: everything is built. Keras would average a batch over workers and fail."""

    def make_train_function(self, force: bool = False) -> None:
        """As in Keras, but averages the step's results over workers as well as replicas.

        Keras 3's own reduction takes a mean over axis 0, which scalars do not have, when
        several workers train together.
        """
        if self.train_function is not None and not force:
            return
        strategy = self.distribute_strategy

        def on_replica(batch: Any, stopping: tf.Tensor) -> dict[str, tf.Tensor]:
            return {**self.train_step(batch), "stopping": tf.identity(stopping)}

        def one_step(batch: Any, stopping: tf.Tensor) -> dict[str, tf.Tensor]:
            results = strategy.run(on_replica, args=(batch, stopping))
            return {k: strategy.reduce("MEAN", v, axis=None) for k, v in results.items()}

        if not self.run_eagerly:
            one_step = tf.function(one_step, autograph=False, jit_compile=self.jit_compile)

        def wait_and_step(iterator: Any) -> dict[str, tf.Tensor]:
            self.waiting_since = time.monotonic()
            try:
                batch = next(iterator)
            finally:
                self.waiting_since = None
            results = one_step(batch, tf.constant(self.stopping, tf.float32))
            self.stopping = float(results.pop("stopping")) > 0
            return results

        self.train_function = wait_and_step
