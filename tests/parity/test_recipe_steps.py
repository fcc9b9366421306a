"""Consecutive steps of the shipped recipes with their real networks (recipe_step_*.npz).

ResNet-18 and ViT-Tiny under LARS, momentum, weight decay and the schedule, through
`build_pretrainer` and `Pretrainer.train_step`, the code that users run. What the test arranges
because we depart on purpose (docs/fidelity.md): the probe reads both clean views under LARS and
the schedule, the slot draws are the stored ones, the entropy term has the official form, BYOL's
encoder side has its shortened schedule, SimSiam's predictor the stored rates, and 64 pixels are
cut into patches of 16. BatchNorm's running averages are not compared; BYOL is compared with the
`every/` arrays (EMA after every step, the first included). TensorFlow's GELU, which knows the
root of 2 in single precision only, is replaced by one that is exact in float64.

Each tensor is compared by its norm and its product with a fixed random vector, relative to its
norm, and so are its change in the step, its gradient and its momentum. Where an exact gradient
would be zero (a bias before BatchNorm) what is left is rounding, compared on its network's scale.
"""

import hashlib
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from adios_tf.nets.torch_weights import official_mapping
from adios_tf.objectives import View
from adios_tf.optimizers import build_optimizer
from adios_tf.schedules import build_schedule
from adios_tf.training.build import build_pretrainer
from adios_tf.training.config import PretrainConfig

pytestmark = pytest.mark.files("recipe_step_*")

TOLERANCE = 1e-9
NOISE = 1e-5  # of a network's largest norm: below, a gradient or change is rounding


def uniform(seed, name, size):
    """The random numbers in [-1, 1) of the files' README."""
    key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little")
    x = np.uint64(key) + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, size + 1, dtype=np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(40)).astype(np.float64) / 2**23 - 1


def initial(seed, name, shape):
    """The README's initial weights, in PyTorch's layout."""
    u = uniform(seed, name, int(np.prod(shape))).reshape(shape)
    if len(shape) == 1:
        w = 1 + u / 8 if name.endswith("weight") else u / 16
    elif len(shape) == 3:
        w = u / 25
    else:
        w = u * np.sqrt((6 if len(shape) == 4 else 3) / np.prod(shape[1:]))
    return w.astype(np.float32)


def settings(file):
    """The flags of the recipe that a file's `meta_json` describes."""
    hyper = file.meta["hyper"]
    base = file.meta["method"].split("_")[0]
    given = {
        "image_size": hyper["img_size"],
        "batch_size": hyper["batch_size"],
        "backbone": hyper["encoder"],
        "objective": base,
        "masking": "adversarial_one" if file.meta["method"].endswith("_s") else "adversarial",
        "hidden_dim": hyper["proj_hidden_dim"],
        "output_dim": hyper["output_dim"],
        "num_masks": hyper["N"],
        "masker_base": hyper["mask_fbase"],
        "masker_norm": hyper["unet_norm"],
        "masker_blocks": hyper.get("num_blocks", 4) if base == "simsiam" else 0,
        "sparsity_weight": hyper["alpha_sparsity"],
        "entropy_weight": -hyper["alpha_entropy"] * hyper["batch_size"],
        "entropy_kind": "softmax_joint" if file.meta["method"] == "simsiam_adios" else "softmax",
        "epochs": hyper["max_epochs"],
        "optimizer": "lars" if hyper["lars"] else "sgd",
        "learning_rate": hyper["lr"],
        "masker_learning_rate": hyper["mask_lr"],
        "weight_decay": hyper["weight_decay"],
        "momentum": hyper["extra_optimizer_args"]["momentum"],
        "lars_eta": hyper["eta_lars"],
        "lars_clip": hyper["grad_clip_lars"],
        "schedule": hyper["scheduler"],
        "warmup_epochs": hyper["warmup_epochs"],
        "warmup_start": hyper["warmup_start_lr"],
    }
    if hyper["encoder"].startswith("resnet"):
        given |= {"padding": "torch", "stem": "adios_cifar" if hyper["cifar"] else "imagenet"}
    optional = {
        "temperature": "temperature",
        "predictor_dim": "pred_hidden_dim",
        "ema_base": "base_tau_momentum",
        "ema_final": "final_tau_momentum",
        "symmetric_mask": "use_symmetry_mask",
        "no_mask": "use_no_mask",
        "both_mask": "use_both_mask",
    }
    given |= {ours: hyper[theirs] for ours, theirs in optional.items() if theirs in hyper}
    return PretrainConfig(constant_predictor=base == "simsiam", **given)


class Stored(keras.optimizers.schedules.LearningRateSchedule):
    """The rates of a file, one per step."""

    def __init__(self, rates):
        self.rates = rates

    def __call__(self, step):
        return tf.gather(tf.constant(self.rates), tf.cast(step, tf.int32))


def exact_gelu(x, approximate=False):
    """x times the normal distribution function, exact in float64."""
    assert not approximate
    return x * (1 + tf.math.erf(x * tf.constant(np.sqrt(0.5), x.dtype))) / 2


def build(file, monkeypatch):
    """Returns a Pretrainer as users get it, arranged as the module says."""
    monkeypatch.setattr(tf.nn, "gelu", exact_gelu)
    hyper, config = file.meta["hyper"], settings(file)
    monkeypatch.setattr("adios_tf.encoders.vit.default_patch", lambda side: 16)
    model = build_pretrainer(config, hyper["steps_per_epoch"], hyper["n_classes"])
    model.probe.views = model.differentiator.probe.views = (View(1), View(2))

    def schedule(rate):
        return build_schedule(
            config.schedule,
            rate,
            config.epochs - hyper.get("train_mask_epoch", 0),
            hyper["steps_per_epoch"],
            warmup_epochs=config.warmup_epochs,
            warmup_start=config.warmup_start,
        )

    model.optimizer.learning_rate = schedule(config.learning_rate)
    model.probe_optimizer = build_optimizer(
        config.optimizer,
        schedule(hyper["classifier_lr"]),
        momentum=config.momentum,
        eta=config.lars_eta,
        clip=config.lars_clip,
    )
    model.probe_optimizer.build(model.probe.trainable_variables)
    steps = range(1, file.meta["steps"] + 1)
    if model.predictor_optimizer is not None:
        column = file.meta["group_order"]["encoder"].index("predictor")
        rates = [file[f"lr{k}/encoder"][column] for k in steps]
        model.predictor_optimizer.learning_rate = Stored(rates)
    if file.meta["method"].endswith("_s"):
        phases = ("encoder_phase", "mask_phase")
        draws = iter([file[f"chosen{k}/{phase}"] for k in steps for phase in phases])
        model.masking.draw_slots = lambda rows, seed: tf.constant(next(draws), tf.int32)
    return model


def entries(model, file):
    """{official name: entry} of all networks."""
    objective = model.objective
    encoder = "vit" if "vit" in file.meta["hyper"]["encoder"] else "resnet"
    parts = [
        (objective.encoder, encoder, "encoder."),
        (objective.projector, "projector", "projector."),
        (model.probe.inference_model(), "dense", "classifier"),
        (model.masking.masker, "unet", ""),
    ]
    if objective.predictor is not None:
        parts.append((objective.predictor, "predictor", "predictor."))
    if hasattr(objective, "target_encoder"):
        parts.append((objective.target_encoder, encoder, "momentum_encoder."))
        parts.append((objective.target_projector, "projector", "momentum_projector."))
    return {e.official_name: e for part in parts for e in official_mapping(*part)}


class Watched:
    """All tensors of a model in PyTorch's layout, with gradients and momenta per optimizer."""

    def __init__(self, model, file):
        self.seed = file.meta["hyper"]["seed"]
        self.names = [str(n) for n in file["stats/names"]]
        shapes = map(json.loads, map(str, file["stats/shapes"]))
        self.entries = entries(model, file)
        assert set(self.entries) == set(self.names)
        self.vectors = {}
        hashes = file["stats/init_sha256"]
        for name, shape, digest in zip(self.names, shapes, hashes, strict=True):
            source = name.removeprefix("momentum_")
            if "running_" in name:
                value = np.full(shape, name.endswith("var"), np.float32)
            else:
                value = initial(self.seed, source, shape)
            assert hashlib.sha256(value.tobytes()).hexdigest()[:16] == digest, name
            variable = self.entries[name].variable
            variable.assign(self.entries[name].from_torch(value))
            self.vectors[name] = uniform(f"dot{self.seed}", name, value.size)
        self.by_path = {id(e.variable): name for name, e in self.entries.items()}
        sides = (model.optimizer, model.predictor_optimizer, model.probe_optimizer)
        self.optimizers = [o for o in (*sides, model.masker_optimizer) if o is not None]
        self.gradients = {}
        for optimizer in self.optimizers:
            self._spy(optimizer)

    def _spy(self, optimizer):
        apply = optimizer.apply

        def recording(gradients, variables):
            for gradient, variable in zip(gradients, variables, strict=True):
                name = self.by_path[id(variable)]
                self.gradients[name] = self.entries[name].to_torch(gradient.numpy())
            return apply(gradients, variables)

        optimizer.apply = recording

    def values(self):
        return {n: e.to_torch(e.variable.numpy()) for n, e in self.entries.items()}

    def momenta(self):
        found = {}
        for optimizer in self.optimizers:
            pairs = zip(optimizer._trainable_variables, optimizer._velocities, strict=True)
            for variable, slot in pairs:
                name = self.by_path[id(variable)]
                found[name] = self.entries[name].to_torch(slot.numpy())
        return found

    def compare(self, ours, theirs, what):
        """Norm and product [T,2] against `ours`, {name: array}; all others must be NaN."""
        rows = dict(zip(self.names, theirs, strict=True))
        largest = {}
        for name, (norm, _) in rows.items():
            network = name.split(".")[0]
            if "running_" not in name and np.isfinite(norm):
                largest[network] = max(largest.get(network, 0), norm)
        for name, (norm, product) in rows.items():
            assert "running_" in name or np.isfinite(norm) == (name in ours), (what, name)
            if "running_" in name or name not in ours:
                continue
            array, vector = ours[name].ravel().astype(np.float64), self.vectors[name]
            scale = max(norm, NOISE * largest[name.split(".")[0]])
            assert abs(np.linalg.norm(array) - norm) <= TOLERANCE * scale, (what, name)
            difference = abs(array @ vector - product)
            assert difference <= TOLERANCE * scale * np.linalg.norm(vector), (what, name)


def losses(results):
    return {
        "encoder_objective": results["distance"],
        "classifier_loss": results["probe_loss"],
        "encoder_total": results["distance"] + results["probe_loss"],
        "mask_objective": results["masker_objective"],
        "mask_minimised": -results["masker_objective"],
    }


def step(model, file, k, precision):
    """Runs the k-th step and returns its losses."""
    batch = {v: tf.constant(file[f"batch{k}/{v}"], precision) for v in ("view1", "view2")}
    batch["label"] = tf.constant(file[f"batch{k}/labels"])
    for mean in model.metrics:
        mean.reset_state()
    return losses({name: float(value) for name, value in model.train_step(batch).items()})


def forward(model, file, precision):
    """{name: ours} of `forward1/` and `masks0/`."""
    found = {}
    for n in model.masked_views:
        view = f"view{n}"
        images = tf.constant(file[f"batch1/{view}"], precision)
        masks = model.masking.masks(images, None, None)
        found[f"masks0/{view}"] = masks[: len(file[f"masks0/{view}"])]
        found[f"masked/{n}"] = images * (1 - masks[..., :1])
    pictures = {
        "view1": tf.constant(file["batch1/view1"], precision),
        "view2_masked0": found.pop("masked/2"),
    }
    for name, images in pictures.items():
        features = model.objective.encoder(images, training=True)
        found[f"forward1/features/{name}"] = features
        found[f"forward1/projected/{name}"] = model.objective.projector(features, training=True)
    return {n: a for n, a in found.items() if n in file.files}


def test_first_forward_in_float32(golden, name, monkeypatch):
    """Equal weights, equal features: to 1e-5 of the largest, in training mode."""
    file = golden(name)
    model = build(file, monkeypatch)
    Watched(model, file)
    ours = forward(model, file, "float32")
    for key, array in ours.items():
        scale = np.abs(file[key]).max()
        np.testing.assert_allclose(array / scale, file[key] / scale, rtol=0, atol=1e-5, err_msg=key)


@pytest.mark.long
def test_every_step_in_float64(golden, name, monkeypatch, float64):
    file = golden(name)
    model = build(file, monkeypatch)
    watched = Watched(model, file)
    root = "every/" if file.meta["method"].startswith("byol") else ""
    rates = {"encoder": model.optimizer, "classifier": model.probe_optimizer}
    watched.compare(watched.values(), file["stats/init"], "init")
    for key, array in forward(model, file, "float64").items():
        scale = np.abs(file[key]).max()
        np.testing.assert_allclose(array / scale, file[key] / scale, rtol=0, atol=1e-9, err_msg=key)

    for k in range(1, file.meta["steps"] + 1):
        groups = file.meta["group_order"]["encoder"]
        for group, optimizer in rates.items():
            expected = file[f"lr{k}/encoder"][groups.index(group)]
            assert float(optimizer.learning_rate) == pytest.approx(expected, rel=1e-12)
        mask_rates = np.full(2, float(model.masker_optimizer.learning_rate))
        np.testing.assert_allclose(mask_rates, file[f"lr{k}/mask"], rtol=1e-12)
        before, slots = watched.values(), watched.momenta()
        found = step(model, file, k, "float64")
        for key, value in found.items():
            expected = float(file[f"{root}losses{k}/{key}"])
            assert value == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE), (k, key)
        after, momenta = watched.values(), watched.momenta()
        watched.compare(watched.gradients, file[f"{root}stats/grad{k}"], f"grad {k}")
        watched.compare(momenta, file[f"{root}stats/momentum{k}"], f"momentum {k}")
        stats, changes = file[f"{root}stats/after{k}"], {n: after[n] - before[n] for n in after}
        watched.compare(after, stats[:, :2], f"after {k}")
        watched.compare(changes, stats[:, 2:], f"change {k}")
        check_ratios(watched, file[f"{root}stats/lars{k}"], before, slots, momenta, file.meta, k)
        check_samples(watched, file, root, k, after)


def check_ratios(watched, theirs, before, slots, momenta, meta, k):
    """The factor that LARS applied to (gradient + decay), measured from our momenta."""
    momentum = meta["hyper"]["extra_optimizer_args"]["momentum"]
    for name, (factor, unclipped, rate, decay) in zip(watched.names, theirs, strict=True):
        gradient = watched.gradients.get(name)
        if gradient is None or np.linalg.norm(gradient) < 1e-12:
            continue
        size, slope = np.linalg.norm(before[name]), np.linalg.norm(gradient)
        entered = momenta[name] - momentum * slots[name]
        excluded = gradient.ndim == 1
        assert np.isnan(unclipped) == excluded, name
        decayed = gradient if excluded else gradient + decay * before[name]
        measured = np.vdot(entered, decayed) / np.vdot(decayed, decayed)
        assert measured == pytest.approx(factor, rel=TOLERANCE), (k, name)
        if not excluded:
            trust = meta["hyper"]["eta_lars"] * size / (slope + decay * size + 1e-8)
            assert trust / rate == pytest.approx(unclipped, rel=TOLERANCE), (k, name)


def check_samples(watched, file, root, k, after):
    """Single entries, which catch transpositions: 64 of every tensor, and some whole tensors.

    BYOL's default arrays hold for what its moving average has not touched yet: the first step.
    """
    stored = {n: file[n] for n in file.names(f"{root}sample/after{k}/")}
    if not root or k == 1:
        stored |= {n: file[n] for n in file.names(f"sample/after{k}/") if "/momentum_" not in n}
        stored |= {n: file[n] for n in file.names(f"full/after{k}/torch/")}
    if k == 1:
        stored |= {n: file[n] for n in file.names("sample/grad1/")}
    assert stored
    scales = {}
    for full in stored:
        name = full.split("/")[-1]
        if "running_" in name:
            continue
        name, _, part = name.partition("[:")
        array = watched.gradients[name] if "/grad" in full else after[name]
        network = ("/grad" in full, name.split(".")[0])
        if network not in scales:
            source = watched.gradients if network[0] else after
            members = [a for n, a in source.items() if n.startswith(network[1] + ".")]
            scales[network] = max(np.abs(a).max() for a in members)
        if "sample/" in full:
            m = min(array.size, 64)
            array = array.ravel()[np.arange(m) * array.size // m]
        elif part:
            array = array[: int(part[:-1])]
        scale = max(np.abs(stored[full]).max(), NOISE * scales[network])
        assert np.abs(array - stored[full]).max() < TOLERANCE * scale, full


def test_first_step_in_float32(golden, name, monkeypatch):
    """Losses and gradients; behind ReLU later steps prove nothing (see the README)."""
    file = golden(name)
    model = build(file, monkeypatch)
    watched = Watched(model, file)
    root = "every/" if file.meta["method"].startswith("byol") else ""
    for key, value in step(model, file, 1, "float32").items():
        assert value == pytest.approx(float(file[f"{root}losses1/{key}"]), rel=1e-5, abs=1e-5), key
    rows = dict(zip(watched.names, file["stats/grad1"], strict=True))
    norms = {n: norm for n, (norm, _) in rows.items() if np.isfinite(norm)}
    assert set(norms) == set(watched.gradients)
    for key, norm in norms.items():
        of_mask = key.startswith("mask_")
        network = [v for n, v in norms.items() if n.startswith("mask_") == of_mask]
        tolerance = (1e-1 if of_mask else 1e-2) * max(norm, 1e-3 * max(network))
        assert abs(np.linalg.norm(watched.gradients[key]) - norm) < tolerance, key
