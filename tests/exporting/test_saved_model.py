import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import adios_tf
from adios_tf import pretrained
from adios_tf.encoders import build_encoder
from adios_tf.errors import UserError
from adios_tf.exporting import saved_model
from adios_tf.nets import build_head, build_projector, build_unet
from adios_tf.nets.heads import Dense

SIDE = 32
INFO = {
    "dataset": "cifar10",
    "image_size": SIDE,
    "mean": [0.4914, 0.4822, 0.4465],
    "std": [0.247, 0.243, 0.261],
}
# One encoder of every family; the large ones take too long for every day.
FAST = ("convnet_small", "resnet18")
SLOW = (
    "resnet18_v2",
    "resnet50",
    "efficientnetv2_b0",
    "mobilenetv3_small",
    "densenet121",
    "vit_tiny",
)


def lively(model, seed=0):
    """Moves every weight a little, BatchNorm's statistics too, so that none can hide."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        value = np.asarray(weight)
        noise = rng.normal(size=value.shape) * 0.02
        weight.assign(value + (np.abs(noise) if "variance" in weight.path else noise))
    return model


def build(name, masks=True):
    """A model with masker and linear head around the encoder `name`."""
    encoder = lively(build_encoder(name, SIDE))
    width = encoder.output_shape[-1]
    parts = {"projector": build_projector("simclr", width, 8, 4)}
    if masks:
        unet = lively(build_unet(SIDE, 3, base=8))
        images = keras.Input((SIDE, SIDE, 3))
        parts["masker"] = keras.Model(images, keras.layers.Softmax()(unet(images)), name="masker")
        linear = (Dense("out", relu=False),)
        parts["classifier"] = lively(build_head(linear, width, 1, 5, name="classifier"))
    return adios_tf.PretrainedModel(INFO | {"backbone": name}, encoder, **parts)


def some_images(count=3, shape=(40, 52)):
    """Smooth pictures of another size than the model's."""
    rng = np.random.default_rng(1)
    coarse = rng.random((count, 6, 7, 3)).astype("f4")
    smooth = np.clip(tf.image.resize(coarse, shape, "bicubic"), 0, 1)
    return (255 * smooth).astype("u1")


@pytest.fixture(scope="module")
def small():
    return build("convnet_small")


@pytest.fixture(scope="module")
def exported(small, tmp_path_factory):
    return saved_model.save_model(small, tmp_path_factory.mktemp("export") / "1")


def check_families(folder, names):
    """Exports encoders, has them answer without Keras, and compares with the models in memory."""
    images, models = some_images(), {}
    for name in names:
        models[name] = build(name, masks=name == names[0])
        saved_model.save_model(models[name], folder / name)
        np.savez(folder / f"{name}.npz", images=images)
    program = Path(__file__).with_name("tensorflow_only.py")
    subprocess.run([sys.executable, program, folder], check=True, cwd=folder)
    for name, model in models.items():
        answers = np.load(folder / f"{name}.answers.npz")
        expected = {"features": model.features(images)}
        if model.masker is not None:
            expected |= {"masks": model.masks(images), "occluded": model.occluded(images)}
            expected["logits"] = model.classifier(expected["features"])
            expected["probabilities"] = tf.nn.softmax(expected["logits"])
        seen = set()
        for key in answers.files:
            signature, output = key.rsplit("/", 1)
            seen.add(signature)
            values = answers[key]
            if signature.endswith("/broken"):
                if output == "ok":
                    np.testing.assert_array_equal(values, [False, False, False, True])
                    continue
                np.testing.assert_array_equal(values[:3], np.zeros_like(values[:3]), key)
                reference, values = np.asarray(expected[output])[1:2], values[3:]
            elif output == "ok":
                assert values.all()
                continue
            else:
                reference = np.asarray(expected[output])
            assert np.abs(reference).max() > 0.01
            scale = max(1.0, np.abs(reference).max())
            np.testing.assert_allclose(values / scale, reference / scale, atol=1e-5, err_msg=key)
        answer_names = 3 if model.masker is not None else 1
        assert len(seen) == 4 * answer_names


def test_exported_equals_in_memory_without_keras(tmp_path):
    check_families(tmp_path, FAST)


@pytest.mark.slow
def test_every_family_exported_equals_in_memory_without_keras(tmp_path):
    check_families(tmp_path, SLOW)


def test_an_export_loads_as_a_model_again(small, exported):
    model, images = adios_tf.load(exported), some_images()
    assert set(model.parts()) == set(small.parts())
    np.testing.assert_array_equal(model.features(images), small.features(images))
    np.testing.assert_array_equal(model.masks(images), small.masks(images))
    assert model.info == small.info


def test_a_damaged_export_is_one_line(exported, tmp_path):
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", exported, copy], check=True)
    (copy / "variables" / "variables.index").unlink()
    with pytest.raises(UserError, match="cannot read the SavedModel") as error:
        pretrained.load(copy)
    assert "\n" not in str(error.value)


def damaged_files():
    """Files that decoders must refuse, of every format."""
    import io

    from PIL import Image

    picture = Image.fromarray(some_images(1, (60, 70))[0])
    found = {"empty": b"", "text": b"this is no image", "zeros": bytes(500)}
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        whole = buffer.getvalue()
        found |= {f"{kind} {share}": whole[: int(len(whole) * share)] for share in (0.1, 0.5, 0.9)}
        found[f"whole {kind}"] = whole
    return found


def test_a_broken_file_does_not_harm_the_others(small, exported):
    files = damaged_files()
    answer = tf.saved_model.load(exported).signatures["embed_bytes"](
        bytes=tf.constant(list(files.values()))
    )
    whole = np.array([name.startswith("whole") for name in files])
    np.testing.assert_array_equal(answer["ok"], whole, err_msg=str(list(files)))
    features = answer["features"].numpy()
    np.testing.assert_array_equal(features[~whole], 0)
    for row, (name, file) in zip(features, files.items(), strict=True):
        if name.startswith("whole"):
            image = tf.io.decode_image(file, 3, expand_animations=False)
            np.testing.assert_allclose(row, small.features(image[None])[0], atol=1e-5)


def test_batches_of_any_size_even_none(exported):
    signatures = tf.saved_model.load(exported).signatures
    for count in (0, 1, 7):
        images = np.zeros((count, 20, 30, 3), np.uint8)
        assert signatures["embed_uint8"](images=images)["features"].shape[0] == count
        files = [tf.io.encode_png(image).numpy() for image in images]
        assert signatures["masks_bytes"](bytes=tf.constant(files, tf.string))["ok"].shape == count


@pytest.mark.parametrize("bad", [255.0, -3.0, np.nan])
def test_float_images_out_of_range_are_refused(exported, bad):
    images = np.zeros((2, 32, 32, 3), np.float32)
    images[1, 0, 0, 0] = bad
    serve = tf.saved_model.load(exported).signatures["serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"must be in \[0,1\]"):
        serve(images=images)


def test_masks_hide_with_the_mean_color(small, exported):
    images = some_images(2, (SIDE, SIDE)).astype("f4") / 255
    answer = tf.saved_model.load(exported).signatures["masks"](images=images)
    masks, occluded = answer["masks"].numpy(), answer["occluded"].numpy()
    assert masks.shape == (2, SIDE, SIDE, 3)
    np.testing.assert_allclose(masks.sum(-1), 1, atol=1e-5)
    for n in range(3):
        mask = masks[..., n, None]
        expected = images * (1 - mask) + np.array(INFO["mean"]) * mask
        np.testing.assert_allclose(occluded[:, n], expected, atol=1e-5)


def test_a_folder_that_holds_something_is_left_alone(small, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="is not empty"):
        saved_model.save_model(small, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_saved_model_cli_shows_and_runs_it(exported, small, tmp_path):
    cli = Path(sys.executable).with_name("saved_model_cli")
    shown = subprocess.run(
        [cli, "show", "--dir", exported, "--all"], capture_output=True, text=True, check=True
    ).stdout
    for name in ("serving_default", "embed_uint8", "embed_bytes", "masks", "classify_bytes"):
        assert f"signature_def['{name}']" in shown
    images = some_images()
    np.save(tmp_path / "images.npy", images)
    what = ["--tag_set", "serve", "--signature_def", "embed_uint8"]
    inputs = ["--inputs", f"images={tmp_path / 'images.npy'}", "--outdir", tmp_path]
    subprocess.run([cli, "run", "--dir", exported, *what, *inputs], check=True, capture_output=True)
    features = np.load(tmp_path / "features.npy")
    np.testing.assert_allclose(features, small.features(images), atol=1e-5)


def test_a_loaded_export_is_callable(small, exported):
    """m(x), m.features, m.masks, m.classify: float or uint8, of any size; gradients; XLA."""
    m, images = tf.saved_model.load(exported), some_images()
    square = some_images(shape=(SIDE, SIDE)).astype("f4") / 255
    for batch in (images, images.astype("f4") / 255, square):
        expected = small.features(batch)
        for call in (m, m.features):
            np.testing.assert_allclose(call(batch), expected, atol=1e-5)
        np.testing.assert_allclose(m.masks(batch), small.masks(batch), atol=1e-5)
        np.testing.assert_allclose(m.classify(batch), small.classifier(expected), atol=1e-5)
    compiled = tf.function(m.features, jit_compile=True)
    np.testing.assert_allclose(compiled(tf.constant(square)), small.features(square), atol=1e-4)
    assert len(m.trainable_variables) == len(small.encoder.trainable_variables)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(m(images) ** 2)
    gradients = tape.gradient(loss, m.trainable_variables)
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"must be in \[0,1\]"):
        m(255 * square)


@pytest.mark.parametrize("trainable", [False, True])
def test_an_export_is_a_keras_layer(exported, trainable):
    """Frozen or trained, with BatchNorm in training mode, under an optimizer with slots."""
    layer = keras.layers.TFSMLayer(
        str(exported), call_endpoint="features", call_training_endpoint="train", trainable=trainable
    )
    for weight in layer.weights:  # as docs/export.md says
        weight._path = weight.path.replace(":0", "")
    head = keras.layers.Dense(3)
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), layer, head])
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [weight.numpy() for weight in layer.trainable_weights]
    assert len(before) == (12 if trainable else 0)
    x = some_images(shape=(SIDE, SIDE)).astype("f4") / 255
    model.fit(x, np.arange(3), epochs=2, verbose=0)
    for old, new in zip(before, layer.trainable_weights, strict=True):
        assert not np.array_equal(old, new.numpy())


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize("value", range(1, 9))
def test_jpeg_files_are_turned_upright(exported, value, order):
    """As Pillow turns them, whatever the byte order and however many segments stand before."""
    import io

    from PIL import Image, ImageOps

    exif = Image.Exif()
    exif.endian = "<" if order == "II" else ">"
    exif[0x010F], exif[0x0112], exif[0x0131] = "maker", value, "program"
    buffer = io.BytesIO()
    picture = Image.fromarray(some_images(1, (24, 40))[0])
    picture.save(buffer, "JPEG", exif=exif, comment=b"before", quality=95)
    file = buffer.getvalue()
    decoded = Image.fromarray(tf.io.decode_jpeg(file, 3).numpy())
    decoded.getexif()[0x0112] = value
    expected = np.asarray(ImageOps.exif_transpose(decoded))
    m = tf.saved_model.load(exported)
    found = m.signatures["embed_bytes"](bytes=tf.constant([file]))
    assert found["ok"].numpy().all()
    np.testing.assert_allclose(found["features"], m.features(expected[None]), atol=1e-5)


def test_damaged_exif_is_no_orientation():
    from adios_tf.exporting.orientation import orientation

    rng = np.random.default_rng(0)
    head = b"\xff\xd8\xff\xe1\x00\x40Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff"
    files = [b"", b"\xff", b"\xff\xd8", head, head[:14], head + rng.bytes(2000), rng.bytes(99)]
    for file in files:
        assert 1 <= int(orientation(tf.constant(file))) <= 8
