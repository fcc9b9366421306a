"""Every setting of a pretraining run, in one frozen dataclass; each field is a flag."""

import dataclasses

from adios_tf.cli import setting


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Settings of `adios_tf.training.run.pretrain` and flags of `bin/pretrain.py`."""

    # {flag that was written: whether on the command line itself}, "flagfile" among them where one
    # was read; None where the settings were not made by `cli.parse`.
    given = None

    # ------------------------------------------------------------------ run
    run_dir: str = setting("", "folder that the run writes; required", "run", common=True)
    resume: bool = setting(True, "continue from the run folder's last checkpoint", "run")
    allow_changes: tuple[str, ...] = setting(
        (), "flags that may differ from those the run was begun with", "run"
    )
    replay: int = setting(
        0, "repeat this update from the nearest checkpoint, report on it, and stop", "run", least=0
    )
    init_from: str = setting("", "run folder whose weights to start from", "run")
    init_parts: str = setting(
        "all", "which weights --init_from brings", "run", choices=("all", "encoder")
    )
    seed: int = setting(
        0, "of weights, data order, augmentation and masks", "run", least=0, common=True
    )
    plugins: tuple[str, ...] = setting((), "modules to import first (own objectives, ...)", "run")
    set: tuple[str, ...] = setting(
        (), "NAME=VALUE, ...: parameters of own components that no flag names", "run", pairs=True
    )
    list: bool = setting(False, "print what can be named in flags, and stop", "run", common=True)

    # ------------------------------------------------------------------ data
    dataset: str = setting(
        "shapes", "catalog or TFDS name, or a folder of images", "data", common=True
    )
    data_dir: str = setting(
        "", "where prepared TFDS data sets lie; empty = TFDS's own", "data", common=True
    )
    download: bool = setting(False, "let TFDS download a data set that is not there", "data")
    class_list: str = setting("", "file of class names that restricts the data set", "data")
    train_split: str = setting("", "TFDS split to train on; empty = the catalog's", "data")
    test_split: str = setting("", "TFDS split for the final kNN; empty = the catalog's", "data")
    train_images: int = setting(0, "train on the first so many images; 0 = all", "data", least=0)
    skip_broken: bool = setting(False, "leave unreadable images out, and count them", "data")
    image_size: int = setting(
        0, "side of the views; 0 = the catalog's", "data", least=0, most=4096, common=True
    )
    mean: tuple[float, ...] = setting(
        (), "of each channel in [0,1]; empty = the catalog's, else measured", "data"
    )
    std: tuple[float, ...] = setting((), "deviation of each channel; as --mean", "data", above=0)
    batch_size: int = setting(
        128, "images per update over all devices", "data", least=1, common=True
    )
    cache: str = setting(
        "auto", "keep the decoded images in memory", "data", choices=("auto", "yes", "no")
    )

    # ------------------------------------------------------------------ augmentation
    min_scale: float = setting(
        0.08, "smallest area of a random crop", "augmentation", above=0, most=1
    )
    interpolation: str = setting(
        "bicubic",
        "how a crop is resized: bicubic as in ADIOS, bilinear as in MixMask",
        "augmentation",
        choices=("bicubic", "bilinear"),
    )
    brightness: float = setting(0.8, "jitter strength", "augmentation", least=0)
    contrast: float = setting(0.8, "jitter strength", "augmentation", least=0)
    saturation: float = setting(0.8, "jitter strength", "augmentation", least=0)
    hue: float = setting(0.2, "jitter strength", "augmentation", least=0, most=0.5)
    jitter_prob: float = setting(0.8, "how often colors jitter", "augmentation", least=0, most=1)
    gray_prob: float = setting(0.2, "how often color is dropped", "augmentation", least=0, most=1)
    blur_prob: float = setting(0.5, "how often a view is blurred", "augmentation", least=0, most=1)
    solarize_prob: float = setting(
        0.0, "how often it is solarized", "augmentation", least=0, most=1
    )
    flip_prob: float = setting(0.5, "how often it is mirrored", "augmentation", least=0, most=1)
    high_pass: int = setting(
        0,
        "kernel side of a high-pass filter on views and evaluated images; 0 = none, MSCN: 11",
        "augmentation",
        least=0,
        most=255,
    )

    # ------------------------------------------------------------------ encoder
    backbone: str = setting("resnet18", "see --list", "encoder", common=True)
    stem: str = setting(
        "auto",
        "first layers of a ResNet: auto = small up to 64 pixels",
        "encoder",
        choices=("auto", "small", "imagenet", "adios_cifar"),
    )
    padding: str = setting(
        "same",
        "of strided layers: Keras's, or PyTorch's, which imported ResNets need",
        "encoder",
        choices=("same", "torch"),
    )

    # ------------------------------------------------------------------ objective
    objective: str = setting("simclr", "see --list", "objective", common=True)
    temperature: float = setting(0.2, "of contrastive objectives", "objective", above=0)
    hidden_dim: int = setting(
        2048, "hidden width of the projector", "objective", least=1, most=2**16
    )
    output_dim: int = setting(128, "width of the projections", "objective", least=1, most=2**16)
    predictor_dim: int = setting(
        512, "hidden width of the predictor", "objective", least=1, most=2**16
    )
    ema_base: float = setting(0.99, "momentum of EMA copies at first", "objective", least=0, most=1)
    ema_final: float = setting(1.0, "momentum of EMA copies at last", "objective", least=0, most=1)
    symmetric_mask: bool = setting(True, "SimSiam: also clean predicts occluded", "objective")
    no_mask: bool = setting(True, "SimSiam: also clean predicts clean", "objective")
    both_mask: bool = setting(True, "SimSiam: also occluded predicts occluded", "objective")
    queue_size: int = setting(
        65536, "MoCo: negatives that are kept", "objective", least=1, most=2**24
    )
    symmetric: bool = setting(False, "MoCo: both views are query once", "objective")

    # ------------------------------------------------------------------ masking
    masking: str = setting("adversarial", "see --list", "masking", common=True)
    num_masks: int = setting(
        4, "mask slots N of a learned masking", "masking", least=1, most=256, common=True
    )
    masked_views: str = setting(
        "auto",
        "which views get an occluded copy; auto = the objective's choice",
        "masking",
        choices=("auto", "second", "both"),
    )
    clean_weight: float = setting(
        -1.0, "weight of the distance between the clean views; -1 = the method's", "masking"
    )
    slot_reduction: str = setting(
        "auto",
        "how the slots' distances add up; auto = the masking's own",
        "masking",
        choices=("auto", "sum", "mean"),
    )
    occluded_keys: bool = setting(
        True, "also compare clean views with occluded ones, where the objective does", "masking"
    )
    sparsity_weight: float = setting(1.0, "alpha1 of ADIOS", "masking", least=0)
    entropy_weight: float = setting(0.0, "> 0 favors slots of equal size", "masking")
    entropy_kind: str = setting(
        "coverage",
        "entropy of what; the official ADIOS term is softmax[_joint] at -alpha2 * batch size",
        "masking",
        choices=("coverage", "softmax", "softmax_joint"),
    )
    budget: tuple[float, ...] = setting(
        (0.2,), "sequential: share that each step may hide; one, or one per step", "masking"
    )
    budget_kind: str = setting(
        "projection",
        "sequential: how the budget holds",
        "masking",
        choices=("projection", "topk", "at_most", "near", "sparsity"),
    )
    budget_weight: float = setting(100.0, "sequential: price of at_most, near", "masking", least=0)
    combination: str = setting(
        "stick_breaking",
        "sequential: how the masks share the image",
        "masking",
        choices=("stick_breaking", "closed", "overlap", "nested"),
    )
    history: str = setting(
        "image",
        "sequential: the masker sees the whole image, or what is still free",
        "masking",
        choices=("image", "masked"),
    )
    history_gradient: bool = setting(
        False, "sequential: gradient through the history channel", "masking"
    )
    step_embedding: bool = setting(False, "sequential: tell the masker which step it is", "masking")
    gate_temperature: float = setting(
        1.0, "sequential: below 1 = sharper masks", "masking", above=0
    )
    topk_cell: int = setting(
        1, "sequential: side in pixels of what topk hides whole", "masking", least=1
    )
    masker_base: int = setting(32, "U-Net width c", "masking", least=1, most=4096)
    masker_norm: str = setting("gn", "U-Net norm", "masking", choices=("gn", "in", "no"))
    masker_blocks: int = setting(0, "U-Net depth K; 0 = by image side", "masking", least=0)
    keep_ratio: float | None = setting(
        None,
        "share that random masks leave visible; default: blocks, cells 0.5, patches 0.25, "
        "rectangles 0.7",
        "masking",
        above=0,
        most=1,
    )
    grid_size: int | None = setting(
        None, "cells a side of grid masks; default: blocks, cells 8, mscn 7", "masking", least=2
    )
    per_image: bool = setting(
        False, "blocks, cells, unmix: a mask for every image, not one for the batch", "masking"
    )
    patch_size: int = setting(16, "patches: side in pixels", "masking", least=1)
    keep_least: float = setting(0.75, "mscn: least visible share of a grid", "masking", above=0)
    keep_most: float = setting(0.95, "mscn: largest visible share of a grid", "masking", most=1)
    focal_prob: float = setting(0.2, "mscn: how often one window stays", "masking", least=0, most=1)
    focal_side: float = setting(
        0.893, "mscn: side of the window as a share of the image's", "masking", above=0, most=1
    )
    channel_prob: float = setting(
        0.7, "mscn: how often a grid hides each color for itself", "masking", least=0, most=1
    )
    unmix_prob: float = setting(
        0.5, "unmix: how often images are blended, not boxes pasted", "masking", least=0, most=1
    )
    unmix_beta: float = setting(1.0, "unmix: lambda ~ Beta(beta, beta)", "masking", above=0)
    object_morph: str = setting(
        "none",
        "objects: what is done to each ground-truth mask",
        "masking",
        choices=("none", "erosion", "dilation", "box"),
    )
    morph_size: int = setting(
        10, "objects: side in pixels of erosion, dilation", "masking", least=1
    )
    object_shuffle: bool = setting(
        False, "objects: take the masks of another image of the batch", "masking"
    )

    # ------------------------------------------------------------------ fill
    fill: str = setting("erase", "what covers the hole; see --list", "fill", common=True)
    partner: str = setting(
        "reversal", "mix: which image fills", "fill", choices=("reversal", "random")
    )
    noise_std: float = setting(0.18, "noise: standard deviation, normalized", "fill", least=0)
    noise_tile: int = setting(
        0, "noise: side of a patch shared by all images and repeated; 0 = none", "fill", least=0
    )
    fill_blur: float = setting(0.1, "blur: sigma as a share of the image side", "fill", above=0)

    # ------------------------------------------------------------------ optimization
    update: str = setting(
        "alternating",
        "masker's step after the encoder's, or both from one backward pass",
        "optimization",
        choices=("alternating", "simultaneous"),
    )
    epochs: int = setting(100, "passes over the data", "optimization", least=1, common=True)
    max_minutes: float = setting(
        0.0, "take as many epochs as fit, measured before the first; 0 = --epochs", "optimization"
    )
    optimizer: str = setting(
        "lars", "of encoder and masker", "optimization", choices=("lars", "sgd", "adamw")
    )
    learning_rate: float = setting(0.4, "of the encoder", "optimization", above=0, common=True)
    masker_learning_rate: float = setting(
        0.1, "of the masker", "optimization", above=0, common=True
    )
    weight_decay: float = setting(1e-5, "of encoder and masker", "optimization", least=0)
    momentum: float = setting(0.9, "of SGD and LARS", "optimization", least=0, most=1)
    lars_eta: float = setting(0.02, "trust coefficient of LARS", "optimization", above=0)
    lars_clip: bool = setting(True, "LARS never exceeds the learning rate", "optimization")
    schedule: str = setting(
        "warmup_cosine",
        "of the learning rates, stepped once per epoch",
        "optimization",
        choices=("warmup_cosine", "cosine", "step", "constant"),
    )
    schedule_per_epoch: bool = setting(
        True, "false: warm-up and cosine move with every update", "optimization"
    )
    warmup_epochs: int = setting(10, "length of the warm-up", "optimization", least=0)
    warmup_start: float = setting(0.003, "learning rate it starts from", "optimization", least=0)
    milestones: tuple[int, ...] = setting((60, 80), "epochs at which `step` drops", "optimization")
    constant_predictor: bool = setting(
        False, "keep the predictor's rate constant (SimSiam)", "optimization"
    )
    accumulate: int = setting(1, "batches whose gradients make one update", "optimization", least=1)

    # ------------------------------------------------------------------ machine
    precision: str = setting(
        "float32",
        "of activations; losses and penalties stay in float32",
        "machine",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )
    xla: bool = setting(False, "compile the step with XLA (slower on CPU, see docs)", "machine")
    deterministic: bool = setting(
        False, "the same bits in every run on the same GPUs, at some cost in time", "machine"
    )
    lean_memory: bool = setting(
        False, "one occluded copy in memory at a time, at some cost in time", "machine"
    )
    devices: int = setting(0, "use so many of the devices found; 0 = all", "machine", least=0)
    cluster: str = setting(
        "tf_config",
        "what names the workers that train together: TF_CONFIG, where it is set, or Slurm",
        "machine",
        choices=("tf_config", "slurm"),
    )

    # ------------------------------------------------------------------ monitoring
    probe: bool = setting(True, "train an online linear probe where there are labels", "monitoring")
    probe_learning_rate: float = setting(0.1, "of the probe", "monitoring", above=0)
    knn_every: int = setting(
        0, "kNN accuracy every so many epochs; 0 = before and after only", "monitoring", least=0
    )
    knn_train_images: int = setting(
        10000, "labeled images that vote in kNN; 0 = all", "monitoring", least=0
    )
    knn_test_images: int = setting(
        2000, "images that kNN is tested on; 0 = all", "monitoring", least=0
    )
    picture_every: int = setting(
        1, "mask panel every so many epochs; 0 = last only", "monitoring", least=0
    )
    picture_images: int = setting(8, "rows of the mask panel", "monitoring", least=1)
    keep_checkpoints: int = setting(2, "newest checkpoints to keep", "monitoring", least=1)
    checkpoint_steps: int = setting(
        0, "also save every so many updates inside an epoch; 0 = no", "monitoring", least=0
    )
    stop_on_collapse: bool = setting(
        True, "stop when the features collapse to a point", "monitoring"
    )


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """What `bin/benchmark.py` measures."""

    backbone: str = setting("resnet18", "encoder", "network")
    image_size: int = setting(32, "side of the views", "network", least=8)
    batch_size: int = setting(64, "images per step", "network", least=1)
    num_masks: int = setting(4, "mask slots N", "network", least=2)
    masker_base: int = setting(32, "U-Net width c", "network", least=1)
    objective: str = setting("simclr", "see bin/pretrain.py --list", "network")
    precision: str = setting(
        "float32",
        "of activations",
        "network",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )
    xla: bool = setting(False, "compile with XLA", "network")
    plugins: tuple[str, ...] = setting((), "modules to import first (own layers, ...)", "network")
    rounds: int = setting(5, "timed steps of each variant, in turn", "measurement", least=1)
    memory: bool = setting(True, "also measure peak memory, a process per variant", "measurement")
    out: str = setting("", "JSON file to write", "measurement")
    only_memory_of: str = setting(
        "", "internal: measure one variant's memory, print it", "internal"
    )


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """What `bin/study.py` compares."""

    base: tuple[str, ...] = setting(
        ("study/shapes",),
        "recipes or flagfiles of what all methods share, one per data",
        "study",
    )
    methods: str = setting("study/methods.txt", "file of lines `name: flags`", "study")
    sweep: str = setting(
        "", "a grid, '--flag=a,b;--other=c,d'; with --methods left out, of the base alone", "study"
    )
    plugins: tuple[str, ...] = setting((), "modules to import first, for every run", "study")
    seeds: tuple[int, ...] = setting((0, 1, 2), "of pretraining", "study", least=0)
    out: str = setting("runs/study", "folder that the study writes", "study")
    data_dir: str = setting(
        "", "where prepared TFDS data sets lie (not for the embedded one)", "study"
    )
    jobs: int = setting(1, "runs at a time", "study", least=1)
    train_images: int = setting(
        4000, "kNN and linear learn from the first so many images; 0 = all", "evaluation", least=0
    )
    rounds: int = setting(5, "timed steps of each method, in turn; 0 = none", "timing", least=0)
    only_run: str = setting("", "internal: make one run", "internal")
