"""Sequential adversarial masking (inspired by arXiv 2212.08277): one mask after another.

Only the paper's abstract could be read: masks come one after another, under different constraints
on the adversary. Everything beyond is inferred, as an extension of ADIOS (papers: sequential
adversarial masking, a.1 to a.4), and none of the numbers is the paper's.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from adios_tf.errors import UserError
from adios_tf.masking import budgets
from adios_tf.masking.base import MASKINGS, Masking, Masks, OneSlot
from adios_tf.masking.penalties import coverage, sparsity
from adios_tf.registry import check_choice
from adios_tf.serialization import Configured, serializable

COMBINATIONS = ("stick_breaking", "closed", "overlap", "nested")
HISTORIES = ("image", "masked")
_CHANNELS = 4


@serializable
class Recursion(Configured, keras.layers.Layer):
    """Images [B,S,S,3] to masks [B,S,S,N], one call of the masker per mask.

    Step n reads the image and, as a fourth channel, what the steps before have hidden; its gate
    h_n (see `budgets`) hides m_n. With A the part that is still free, A_0 = 1:

    - `stick_breaking`: m_n = A h_n, A <- A (1 - h_n): no overlap, the masks and the rest sum to 1;
    - `closed`: the same, but the last mask takes all that is left;
    - `overlap`: m_n = h_n, A <- A (1 - h_n): a step may hide again what is hidden;
    - `nested`: as `stick_breaking`, but slot n hides the union of the first n masks.

    Args:
      masker: [B,S,S,4] -> logits [B,S,S,1]; shared by all steps.
      budget: r_n per step; with `closed` one less than steps.
      num_masks: N.
      budget_kind: one of `budgets.KINDS`; of these `projection` and `topk` shape the gate.
      combination: see above.
      history: `image` shows the masker the whole image, `masked` only what is still free.
      step_embedding: adds a learned constant per step and channel to what the masker reads.
      history_gradient: lets the gradient through the history channel; otherwise each step is a
        greedy adversary. It always flows through A.
      gate_temperature: T of the gate.
      topk_cell: see `budgets.top_share`.
    """

    def __init__(
        self,
        masker: keras.Model,
        budget: Sequence[float],
        num_masks: int,
        budget_kind: str,
        combination: str,
        history: str,
        step_embedding: bool,
        history_gradient: bool,
        gate_temperature: float,
        topk_cell: int,
        **kwargs: Any,
    ):
        super().__init__(**{"dtype": keras.config.floatx(), **kwargs})
        self.masker, self.num_masks = masker, num_masks
        self.budget, self.budget_kind = tuple(budget), budget_kind
        self.combination, self.history = combination, history
        self.step_embedding, self.history_gradient = step_embedding, history_gradient
        self.gate_temperature, self.topk_cell = gate_temperature, topk_cell
        shape = (num_masks, _CHANNELS)
        self.steps = self.add_weight(shape, "zeros", name="steps") if step_embedding else None
        self.built = True

    def logits(
        self, images: tf.Tensor, free: tf.Tensor, step: int, training: bool = False
    ) -> tf.Tensor:
        """What the masker answers at one step (from 0), [B,S,S].

        Of images [B,S,S,3] and `free` [B,S,S], what is still visible.
        """
        hidden = (1 - free)[..., None]
        if not self.history_gradient:
            hidden = tf.stop_gradient(hidden)
        shown = images if self.history == "image" else images * (1 - hidden)
        inputs = tf.concat([shown, hidden], axis=-1)
        if self.steps is not None:
            inputs += tf.convert_to_tensor(self.steps)[step]
        return tf.cast(self.masker(inputs, training=training)[..., 0], free.dtype)

    def gate(self, logits: tf.Tensor, free: tf.Tensor, step: int) -> tf.Tensor:
        """Which share of the free part a step hides, [B,S,S]."""
        temperature = self.gate_temperature
        if self.budget_kind == "projection":
            return budgets.project(logits, free, self.budget[step], temperature)
        if self.budget_kind == "topk":
            return budgets.top_share(logits, free, self.budget[step], temperature, self.topk_cell)
        return budgets.sigmoid_gate(logits, temperature)

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        everything = tf.ones_like(images[..., 0])
        free, masks = everything, []
        for step in range(self.num_masks):
            if self.combination == "closed" and step == self.num_masks - 1:
                masks.append(free)
                break
            logits = self.logits(images, free, step, training)
            available = everything if self.combination == "overlap" else free
            gate = self.gate(logits, available, step)
            free *= 1 - gate
            masks.append(1 - free if self.combination == "nested" else available * gate)
        return tf.stack(masks, axis=-1)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.num_masks)


@MASKINGS.register(
    "sequential", "inspired by arXiv 2212.08277: N learned masks in turn, each with a budget"
)
@serializable
class SequentialMasking(Masking):
    """One masker called N times, each time shown what it has hidden already.

    Distances are averaged over the masks (`slot_reduction`), where ADIOS sums them.

    Args:
      masker: [B,S,S,4] -> logits [B,S,S,1].
      num_masks: N, at least 1.
      budget: r_n, the share of the image that each step may hide: one number, or one per step.
      budget_kind: how the budget holds. `projection`: exactly, the masker only moves mass.
        `topk`: exactly, in binary masks. `at_most`, `near`: the masker pays `budget_weight`
        times the squared excess, or difference. `sparsity`: no budget but ADIOS's penalty.
      budget_weight: see `budget_kind`.
      sparsity_weight: alpha1 of ADIOS, for `sparsity`.
      combination, history, step_embedding, history_gradient, gate_temperature, topk_cell: see
        `Recursion`.

    Raises:
      UserError: settings that contradict each other.
    """

    slot_reduction = "mean"
    trains = True
    masker_inputs = _CHANNELS

    @staticmethod
    def masker_outputs(num_masks: int) -> int:
        return 1

    def __init__(
        self,
        masker: keras.Model,
        num_masks: int = 4,
        budget: Sequence[float] = (0.2,),
        budget_kind: str = "projection",
        budget_weight: float = 100.0,
        sparsity_weight: float = 1.0,
        combination: str = "stick_breaking",
        history: str = "image",
        step_embedding: bool = False,
        history_gradient: bool = False,
        gate_temperature: float = 1.0,
        topk_cell: int = 1,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_choice("--budget_kind", budget_kind, budgets.KINDS)
        check_choice("--combination", combination, COMBINATIONS)
        check_choice("--history", history, HISTORIES)
        if not gate_temperature > 0:
            raise UserError(f"--gate_temperature={gate_temperature} must be above 0")
        shapes = masker.input_shape[-1], masker.output_shape[-1]
        if shapes != (self.masker_inputs, self.masker_outputs(num_masks)):
            raise UserError(f"a sequential masker reads 4 channels and gives 1, not {shapes}")
        closed = combination == "closed"
        if closed and num_masks < 2:
            raise UserError("--combination=closed needs --num_masks of at least 2")
        budget = budgets.as_list(budget, num_masks - closed)
        if combination != "overlap" and budget_kind != "sparsity" and sum(budget) > 1:
            raise UserError(
                f"--budget adds up to {sum(budget):.3g}: more than the whole image, where the "
                "masks may not overlap"
            )
        self.masker, self.num_masks = masker, num_masks
        self.budget_kind, self.budget_weight = budget_kind, budget_weight
        self.sparsity_weight = sparsity_weight
        self.recursion = Recursion(
            masker,
            budget,
            num_masks,
            budget_kind,
            combination,
            history,
            step_embedding,
            history_gradient,
            gate_temperature,
            topk_cell,
        )

    def masks(
        self, images: tf.Tensor, truth: tf.Tensor | None, seed: tf.Tensor, training: bool = True
    ) -> tf.Tensor:
        return self.recursion(images, training=training)

    def hidden_by_step(self, masks: tf.Tensor) -> tf.Tensor:
        """Share of the image that each step itself hides, masks [B,S,S,N] -> [B,N]."""
        shares = coverage(masks)
        if self.recursion.combination == "nested":
            shares -= tf.pad(shares[:, :-1], [[0, 0], [1, 0]])
        return shares

    def penalty(self, masks: Masks) -> tf.Tensor:
        total = super().penalty(masks)
        for shares in map(self.hidden_by_step, masks.values()):
            if self.budget_kind == "sparsity":
                total += self.sparsity_weight * sparsity(shares)
            elif self.budget_kind in ("at_most", "near"):
                budget = self.recursion.budget
                both = self.budget_kind == "near"
                budgeted = shares[:, : len(budget)]
                total += self.budget_weight * budgets.excess(budgeted, budget, both)
        return total

    def trained_variables(self) -> list[keras.Variable]:
        return self.recursion.trainable_variables

    def inference_model(self, image_size: int) -> keras.Model:
        images = keras.Input((image_size, image_size, 3))
        return keras.Model(images, self.recursion(images), name="masker")


@MASKINGS.register("sequential_one", "the same, one of the N drawn per image and update")
@serializable
class SequentialOne(OneSlot, SequentialMasking):
    """`SequentialMasking` with one mask per image and update; all N are made all the same."""
