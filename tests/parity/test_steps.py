"""Whole training steps against the official implementation (step_*.npz, simsiam_*terms.npz).

Two steps on two batches through `Pretrainer.train_step`, the code that users run. What the test
arranges because we depart on purpose (docs/fidelity.md): the probe reads both clean views, the
slot draws are the stored ones, and the entropy term is given in the official form. BatchNorm's
running averages are not compared; BYOL is compared with the `every/` arrays (EMA after every
step, the first included).
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

from adios_tf.masking import Adversarial, AdversarialOne
from adios_tf.nets import build_predictor, build_projector, build_unet
from adios_tf.nets.torch_weights import official_mapping
from adios_tf.objectives import OBJECTIVES
from adios_tf.optimizers import SGD
from adios_tf.training.pretrainer import Pretrainer
from adios_tf.training.probe import Probe

# In float32, BatchNorm over the four images of a golden batch blows rounding up (the reference
# itself loses 2e-5 of its weights there), and Keras's form x * scale + (offset - mean * scale)
# more than PyTorch's; so the proof is the float64 run, of the same code.
TOLERANCE = {"float64": 1e-9, "float32": 1e-3}


class Stored(AdversarialOne):
    """ADIOS-s with the draws of the golden file instead of random ones."""

    draws: tuple = ()

    def draw_slots(self, rows, seed):
        draw, self.draws = self.draws[0], self.draws[1:]
        return tf.constant(draw, tf.int32)


def build(file, method, switches):
    """Returns a compiled Pretrainer with the golden initial weights, and its name map.

    `switches` are SimSiam's three, under their official names.
    """
    hyper, meta = file.meta["hyper"], file.meta
    init = file.group("init/keras/")
    base = method.split("_")[0]
    side, features = file["batch1/view1"].shape[1], init["encoder.conv1.weight"].shape[-1]
    encoder = tiny.encoder(side, features)
    hidden = init["projector.0.weight"].shape[-1]
    kernels = [n for n in sorted(init) if n.startswith("projector") and init[n].ndim == 2]
    out = init[kernels[-1]].shape[-1]
    settings = {"projector": build_projector(base, features, hidden, out)}
    if base == "simclr":
        settings["temperature"] = hyper["temperature"]
    else:
        width = init["predictor.0.weight"].shape[-1]
        settings["predictor"] = build_predictor(base, out, width, out)
    if base == "byol":
        settings |= {"ema_base": hyper["base_tau"], "ema_final": hyper["final_tau"]}
        settings["total_steps"] = hyper["max_steps"]
    if base == "simsiam":
        settings["symmetric_mask"] = switches["use_symmetry_mask"]
        settings["no_mask"] = switches["use_no_mask"]
        settings["both_mask"] = switches["use_both_mask"]
    objective = OBJECTIVES[base](encoder, **settings)

    blocks = sum(n.startswith("mask_encoder.down.") and n.endswith(".0.weight") for n in init)
    width, norm = meta["mask_fbase"], meta["unet_norm"]
    unet = build_unet(side, hyper["N"], base=width, norm=norm, num_blocks=blocks)
    masking = (Stored if method.endswith("_s") else Adversarial)(
        unet,
        sparsity_weight=hyper["alpha1"],
        entropy_weight=-hyper["alpha2"] * hyper["batch_size"],
        entropy_kind="softmax_joint" if method == "simsiam_adios" else "softmax",
    )
    probe = Probe(features, hyper["n_classes"], views=(1, 2))
    model = Pretrainer(objective, masking, probe=probe)
    model.compile(
        SGD(hyper["lr"], momentum=0.0),
        SGD(hyper["mask_lr"], momentum=0.0),
        probe_optimizer=SGD(hyper["classifier_lr"], momentum=0.0),
        run_eagerly=True,
    )
    names = name_map(model)
    for name, (variable, fix) in names.items():
        variable.assign(fix(init[name]))
    return model, names


def layer_variables(model):
    """Yields (parameter names, variables) per layer with weights, in order."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            named = {"weight": layer.gamma, "bias": layer.beta}
        elif isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            named = {"weight": layer.kernel, "bias": layer.bias}
        else:
            continue
        yield {k: v for k, v in named.items() if v is not None}


def unchanged(array):
    return array


def name_map(model):
    """{official name: (our variable, golden array -> our layout)} of everything trained."""
    objective, names = model.objective, {}

    def add(prefixes, net):
        layers = list(layer_variables(net))
        assert len(layers) >= len(prefixes)
        for prefix, named in zip(prefixes, layers, strict=False):
            for kind, variable in named.items():
                names[f"{prefix}.{kind}"] = (variable, unchanged)

    heads = {"SimCLR": ("0", "2"), "BYOL": ("0", "1", "3"), "SimSiam": ("0", "1", "3", "4", "6")}
    indices = heads[type(objective).__name__]
    add(["encoder.conv1", "encoder.bn1"], objective.encoder)
    add([f"projector.{i}" for i in indices], objective.projector)
    if objective.predictor is not None:
        add([f"predictor.{i}" for i in ("0", "1", "3")], objective.predictor)
    if hasattr(objective, "target_encoder"):
        add(["momentum_encoder.conv1", "momentum_encoder.bn1"], objective.target_encoder)
        add([f"momentum_projector.{i}" for i in indices], objective.target_projector)
    classifier = model.probe.classifier
    names["classifier.weight"] = (classifier.kernel, unchanged)
    names["classifier.bias"] = (classifier.bias, unchanged)
    names |= masker_map(model.masking.masker)
    return names


def masker_map(unet):
    """The U-Net's names; the official bottleneck flattens channels first, ours channels last."""
    return {
        entry.official_name: (entry.variable, entry.to_keras)
        for entry in official_mapping(unet, "unet")
    }


def compare(ours, theirs, tolerance, what):
    """Largest difference within each network, relative to its largest entry.

    A bias before BatchNorm has no gradient but rounding noise, so a scale of its own would
    compare noise with noise.
    """
    scales = {}
    for name, array in theirs.items():
        network = name.split(".")[0]
        scales[network] = max(scales.get(network, 0.0), np.abs(array).max())
    for name, array in theirs.items():
        difference = np.abs(np.asarray(ours[name]) - array).max() / scales[name.split(".")[0]]
        assert difference < tolerance, f"{what} of {name}: {difference:.2e}"


def check(file, method, switches, precision, root="", later=(2,)):
    """One step, and those `later`, against the arrays under `root`."""
    tolerance = TOLERANCE[precision]
    model, names = build(file, method, switches)
    variables = {id(v): n for n, (v, _) in names.items()}
    gradients = {}

    def spy(optimizer):
        apply = optimizer.apply

        def recording(grads, trainable):
            gradients.update({variables[id(v)]: g for g, v in zip(grads, trainable, strict=True)})
            return apply(grads, trainable)

        optimizer.apply = recording

    for optimizer in (model.optimizer, model.masker_optimizer, model.probe_optimizer):
        spy(optimizer)

    for step in (1, *later):
        batch = {v: tf.cast(file[f"batch{step}/{v}"], precision) for v in ("view1", "view2")}
        batch["label"] = tf.constant(file[f"batch{step}/labels"])
        if step == 1:
            for view in model.masked_views:
                masks = model.masking.masks(batch[f"view{view}"], None, None)
                np.testing.assert_allclose(masks, file[f"masks0/view{view}"], atol=1e-5)
        if method.endswith("_s"):
            draws = [file[f"chosen{step}/{p}_phase"] for p in ("encoder", "mask")]
            model.masking.draws = tuple(draws)
        for mean in model.metrics:
            mean.reset_state()
        results = {name: float(value) for name, value in model.train_step(batch).items()}

        losses = {
            "encoder_objective": results["distance"],
            "classifier_loss": results["probe_loss"],
            "encoder_total": results["distance"] + results["probe_loss"],
            "mask_objective": results["masker_objective"],
            "mask_minimised": -results["masker_objective"],
        }
        for name, value in losses.items():
            expected = float(file[f"{root}losses{step}/{name}"])
            assert value == pytest.approx(expected, rel=tolerance, abs=tolerance), (step, name)
        if step == 1:
            # BYOL's first gradients are stored once, for both of its variants.
            part = "" if root == "every/" else root
            stored = file.group(f"{part}grad1/keras/")
            expected = {n: names[n][1](g) for n, g in stored.items()}
            compare(gradients, expected, tolerance, "gradient")
            assert set(expected) == set(gradients)
        after = file.group(f"{root}after{step}/keras/")
        if root == "every/" and step == 1:  # that variant leaves the masker out
            after |= file.group(f"after{step}/keras/mask_", keep="mask_")
        learned = [n for n in after if "running_" not in n and "num_batches" not in n]
        missing = set(names) - set(learned)
        assert all(n.startswith("mask_") for n in missing if root)
        assert root or not missing
        expected = {n: names[n][1](after[n]) for n in learned}
        compare({n: names[n][0].numpy() for n in learned}, expected, tolerance, f"after {step}")

    sides = [v for _, group in model._encoder_groups() for v in group]
    for variable in sides + model.masking.trained_variables():
        assert id(variable) in variables, f"{variable.path} is not compared"


@pytest.mark.files("step_*")
def test_two_steps(golden, name, precision):
    file = golden(name)
    method = name.removeprefix("step_")
    root = "every/" if method.startswith("byol") else ""
    check(file, method, file.meta["hyper"], precision, root)


def of(name):
    return pytest.mark.cases(name, lambda file: file["names"])


@of("simsiam_terms")
def test_combinations_of_simsiams_terms(golden, case, float64):
    check_terms(golden("simsiam_terms"), case)


@of("simsiam_s_terms")
def test_combinations_of_simsiams_terms_with_one_mask(golden, case, float64):
    check_terms(golden("simsiam_s_terms"), case)


def check_terms(file, case):
    """The masker's weights after the step are not stored, its gradients are."""
    switches = file.meta["cases"][case]
    check(file, file.meta["method"], switches, "float64", root=f"{case}/", later=())
