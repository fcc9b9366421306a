"""The JSON of TensorFlow Serving's REST prediction API: requests in, answers out.

Row format: `{"instances": [...]}` gives `{"predictions": [...]}`; column format:
`{"inputs": ...}` gives `{"outputs": ...}`; `{"examples": [...]}` of a classify request gives
`{"results": [...]}`. Bytes are `{"b64": "..."}`.
"""

import base64
import binascii
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from PIL import Image
from tensorflow.core.protobuf import meta_graph_pb2

from adios_tf.cli import program
from adios_tf.errors import UserError
from adios_tf.exporting.limits import Limits
from adios_tf.registry import unknown_name

MAX_PIXELS = 50_000_000
_BOOLEAN = re.compile(rb"[\[,]\s*(?:true|false)\s*[,\]]")


class TooLargeError(UserError):
    """A request whose images unpack to more than the server takes."""


class Signature(NamedTuple):
    """One signature of a SavedModel with a single input."""

    name: str
    call: Callable[[np.ndarray], dict[str, np.ndarray]]
    input_name: str
    dtype: tf.DType
    definition: meta_graph_pb2.SignatureDef


class Request(NamedTuple):
    """A parsed request: the signature's name, its rows, and the key of its answer."""

    signature: str
    rows: np.ndarray
    key: str


def load_signatures(folder: Path) -> dict[str, Signature]:
    """Returns the signatures of a SavedModel by name.

    It runs in a session, as in TensorFlow Serving: what `tf.saved_model.load` takes of memory does
    not come back when the model goes, and it takes several times as long.

    Raises:
      UserError: a signature has several inputs: it is no export of bin/export.py.
    """
    with tf.Graph().as_default() as graph:
        session = tf.compat.v1.Session(graph=graph)
        definitions = tf.compat.v1.saved_model.load(session, ["serve"], str(folder)).signature_def
    found = {}
    for name, definition in definitions.items():
        if name.startswith("__"):  # what initializes the variables
            continue
        if len(definition.inputs) != 1:
            count = len(definition.inputs)
            raise UserError(
                f"signature {name} has {count} inputs: no export of {program('export')}"
            )
        ((input_name, tensor),) = definition.inputs.items()
        outputs = {key: output.name for key, output in definition.outputs.items()}
        call = session.make_callable(outputs, [tensor.name])
        found[name] = Signature(name, call, input_name, tf.as_dtype(tensor.dtype), definition)
    return found


def reason(error: Exception) -> str:
    """Returns the line of an error of TensorFlow that says what is wrong."""
    text = str(error).removeprefix("Graph execution error:").strip() or repr(error)
    return text.splitlines()[0]


def parse(
    body: bytes, signatures: Mapping[str, Signature], limits: Limits, classify: bool = False
) -> Request:
    """Reads the body of a predict or classify request.

    Raises:
      UserError: no JSON, an unknown signature or input, rows of several shapes or other types.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the body is no JSON ({str(error)[:100]})") from error
    if not isinstance(content, dict):
        raise UserError("the body must be a JSON object")
    default = "serving_default"
    if classify:
        key, values = "results", _examples(content)
        default = "classify" if values and "images" in values[0] else "classify_bytes"
    elif ("instances" in content) == ("inputs" in content):
        raise UserError("the body must have either 'instances' or 'inputs'")
    else:
        key = "predictions" if "instances" in content else "outputs"
        values = content["instances" if "instances" in content else "inputs"]
    name = content.get("signature_name") or default
    if not isinstance(name, str) or name not in signatures:
        raise unknown_name("signature", str(name), signatures)
    signature = signatures[name]
    if classify and "probabilities" not in signature.definition.outputs:
        raise UserError(f"signature {name} gives no probabilities: take classify or classify_bytes")
    if isinstance(values, dict) and key == "outputs":
        values = _input(values, signature)
    if not isinstance(values, list):
        raise UserError("instances and inputs must be lists, one entry per image")
    if key != "outputs":
        values = [_input(v, signature) if isinstance(v, dict) else v for v in values]
    if not values:
        raise UserError("there are no images in the request")
    if len(values) > limits.max_images:
        raise UserError(
            f"{len(values)} images in one request, at most {limits.max_images} are taken"
        )
    if signature.dtype == tf.string:
        return Request(name, _bytes(values, int(1e6 * limits.max_megapixels)), key)
    if _BOOLEAN.search(body):  # NumPy makes numbers of them
        raise _no_numbers(signature)
    return Request(name, _images(values, signature), key)


def _examples(content: dict) -> list[dict]:
    """The examples of a classify request, each with what all have in common."""
    examples, context = content.get("examples"), content.get("context", {})
    if not isinstance(examples, list) or not all(isinstance(e, dict) for e in [context, *examples]):
        raise UserError("the body must have 'examples', a list of objects, one per image")
    if any(set(context) & set(example) for example in examples):
        raise UserError("what is in 'context' must not be in 'examples'")
    return [context | example for example in examples]


def _input(value: dict, signature: Signature) -> Any:
    if set(value) == {"b64"}:
        return value
    if set(value) != {signature.input_name}:
        given = ", ".join(map(str, value)) or "nothing"
        raise UserError(
            f"signature {signature.name} takes the input {signature.input_name!r}, not {given}"
        )
    return value[signature.input_name]


def _bytes(values: list, most: int) -> np.ndarray:
    files = np.empty(len(values), object)
    left = most
    for index, value in enumerate(values):
        if not (isinstance(value, dict) and [*value] == ["b64"] and isinstance(value["b64"], str)):
            raise UserError(f'image {index} must be {{"b64": "..."}}, a file in base64')
        try:
            files[index], pixels = decodable(base64.b64decode(value["b64"], validate=True))
        except (binascii.Error, ValueError) as error:
            raise UserError(f"image {index} is no base64 ({error})") from error
        left -= pixels
        if left < 0:
            raise TooLargeError(f"the images have more than {most} pixels together: send fewer")
    return files


def decodable(file: bytes) -> tuple[bytes, int]:
    """Returns the file and its pixels as its header says them.

    Nothing and 0 in place of a file that is no image, or that would fill the memory.
    """
    try:
        with Image.open(io.BytesIO(file)) as image:
            pixels = image.width * image.height
    except Exception:  # Pillow raises many kinds on damaged files
        return b"", 0
    return (file, pixels) if pixels <= MAX_PIXELS else (b"", 0)


def _images(values: list, signature: Signature) -> np.ndarray:
    try:
        rows = np.array(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise _no_numbers(signature) from error
    if rows.dtype.kind not in "iuf":
        raise _no_numbers(signature)
    if rows.ndim != 4 or rows.shape[-1] != 3 or 0 in rows.shape:
        raise UserError(f"the images must be [B,H,W,3], got shape {list(rows.shape)}")
    low, high = (0, 255) if signature.dtype == tf.uint8 else (0, 1)
    bad = np.flatnonzero(~((rows >= low) & (rows <= high)).all(axis=(1, 2, 3)))
    if len(bad):
        raise UserError(
            f"image {bad[0]} is not in {low}..{high}, the range of signature {signature.name}"
        )
    if signature.dtype == tf.uint8 and (rows != np.floor(rows)).any():
        raise UserError(f"the images of signature {signature.name} must be whole numbers")
    return rows.astype(signature.dtype.as_numpy_dtype)


def _no_numbers(signature: Signature) -> UserError:
    return UserError(f"the images of signature {signature.name} must be numbers, all of one shape")


def encode(answer: Mapping[str, np.ndarray], key: str) -> bytes:
    """Returns the body of the answer, as TensorFlow Serving words it.

    An export knows no names of classes: the labels of "results" are their numbers.

    Raises:
      UserError: an image that is to be classified could not be decoded.
    """
    columns = {name: values.tolist() for name, values in answer.items()}
    if key == "results":
        if False in columns.get("ok", []):
            raise UserError(f"image {columns['ok'].index(False)} is no image that can be read")
        values = [[[str(c), p] for c, p in enumerate(row)] for row in columns["probabilities"]]
    elif len(columns) == 1:
        (values,) = columns.values()
    elif key == "outputs":
        values = columns
    else:
        rows = zip(*columns.values(), strict=True)
        values = [dict(zip(columns, row, strict=True)) for row in rows]
    return json.dumps({key: values}).encode()


def status(states: Mapping[int, tuple[str, str]]) -> dict[str, Any]:
    """Returns what the status endpoint answers about {version: (state, error)}, newest first."""
    found = []
    for number, (state, error) in sorted(states.items(), reverse=True):
        told = {"error_code": "UNKNOWN" if error else "OK", "error_message": error}
        found.append({"version": str(number), "state": state, "status": told})
    return {"model_version_status": found}


def metadata(name: str, version: str, signatures: Mapping[str, Signature]) -> dict[str, Any]:
    """Returns what the metadata endpoint answers."""
    definitions = {
        signature.name: json_format.MessageToDict(
            signature.definition,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        for signature in signatures.values()
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": version},
        "metadata": {"signature_def": {"signature_def": definitions}},
    }
