"""The JSON of TensorFlow Serving's REST prediction API: requests in, answers out.

Row format: `{"instances": [...]}` gives `{"predictions": [...]}`; column format:
`{"inputs": ...}` gives `{"outputs": ...}`. Bytes are `{"b64": "..."}`.
"""

import base64
import binascii
import io
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from adios_tf.cli import program
from adios_tf.errors import UserError
from adios_tf.registry import unknown_name

MAX_PIXELS = 50_000_000
_BOOLEAN = re.compile(rb"[\[,]\s*(?:true|false)\s*[,\]]")


class Signature(NamedTuple):
    """One signature of a SavedModel with a single input."""

    name: str
    call: Any
    input_name: str
    spec: tf.TensorSpec
    outputs: Mapping[str, tf.TensorSpec]

    def __call__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        answer = self.call(**{self.input_name: tf.constant(rows, self.spec.dtype)})
        return {name: values.numpy() for name, values in answer.items()}


class Request(NamedTuple):
    """A parsed request: the signature's name, its rows, and whether the answer is by rows."""

    signature: str
    rows: np.ndarray
    by_rows: bool


def signatures_of(loaded: Any) -> dict[str, Signature]:
    """Returns the signatures of a loaded SavedModel.

    Raises:
      UserError: a signature has several inputs: it is no export of bin/export.py.
    """
    found = {}
    for name, call in loaded.signatures.items():
        inputs = call.structured_input_signature[1]
        if len(inputs) != 1:
            raise UserError(
                f"signature {name} has {len(inputs)} inputs: no export of {program('export')}"
            )
        (input_name, spec) = next(iter(inputs.items()))
        found[name] = Signature(name, call, input_name, spec, call.structured_outputs)
    return found


def parse(body: bytes, signatures: Mapping[str, Signature], max_rows: int) -> Request:
    """Reads the body of a predict request.

    Raises:
      UserError: no JSON, an unknown signature or input, rows of several shapes or other types.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the body is no JSON ({str(error)[:100]})") from error
    if not isinstance(content, dict):
        raise UserError("the body must be a JSON object")
    name = content.get("signature_name") or "serving_default"
    if not isinstance(name, str) or name not in signatures:
        raise unknown_name("signature", str(name), signatures)
    signature = signatures[name]
    by_rows = "instances" in content
    if by_rows == ("inputs" in content):
        raise UserError("the body must have either 'instances' or 'inputs'")
    values = content["instances" if by_rows else "inputs"]
    if isinstance(values, dict) and not by_rows:
        values = _input(values, signature)
    if not isinstance(values, list):
        raise UserError("instances and inputs must be lists, one entry per image")
    if by_rows:
        values = [_input(v, signature) if isinstance(v, dict) else v for v in values]
    if not values:
        raise UserError("there are no images in the request")
    if len(values) > max_rows:
        raise UserError(f"{len(values)} images in one request, at most {max_rows} are taken")
    if signature.spec.dtype != tf.string and _BOOLEAN.search(body):  # NumPy makes numbers of them
        raise _no_numbers(signature)
    convert = _bytes if signature.spec.dtype == tf.string else _images
    return Request(name, convert(values, signature), by_rows)


def _input(value: dict, signature: Signature) -> Any:
    if set(value) == {"b64"}:
        return value
    if set(value) != {signature.input_name}:
        given = ", ".join(map(str, value)) or "nothing"
        raise UserError(
            f"signature {signature.name} takes the input {signature.input_name!r}, not {given}"
        )
    return value[signature.input_name]


def _bytes(values: list, signature: Signature) -> np.ndarray:
    files = np.empty(len(values), object)
    for index, value in enumerate(values):
        if (
            not isinstance(value, dict)
            or set(value) != {"b64"}
            or not isinstance(value["b64"], str)
        ):
            raise UserError(f'image {index} must be {{"b64": "..."}}, a file in base64')
        try:
            files[index] = decodable(base64.b64decode(value["b64"], validate=True))
        except (binascii.Error, ValueError) as error:
            raise UserError(f"image {index} is no base64 ({error})") from error
    return files


def decodable(file: bytes) -> bytes:
    """Returns the file, or nothing in place of one whose pixels would fill the memory."""
    try:
        with Image.open(io.BytesIO(file)) as image:
            return file if image.width * image.height <= MAX_PIXELS else b""
    except Image.DecompressionBombError:
        return b""
    except Exception:  # the model says itself that it cannot decode what Pillow cannot
        return file


def _images(values: list, signature: Signature) -> np.ndarray:
    try:
        rows = np.array(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise _no_numbers(signature) from error
    if rows.dtype.kind not in "iuf":
        raise _no_numbers(signature)
    if rows.ndim != 4 or rows.shape[-1] != 3 or 0 in rows.shape:
        raise UserError(f"the images must be [B,H,W,3], got shape {list(rows.shape)}")
    low, high = (0, 255) if signature.spec.dtype == tf.uint8 else (0, 1)
    bad = np.flatnonzero(~((rows >= low) & (rows <= high)).all(axis=(1, 2, 3)))
    if len(bad):
        raise UserError(
            f"image {bad[0]} is not in {low}..{high}, the range of signature {signature.name}"
        )
    if signature.spec.dtype == tf.uint8 and (rows != np.floor(rows)).any():
        raise UserError(f"the images of signature {signature.name} must be whole numbers")
    return rows.astype(signature.spec.dtype.as_numpy_dtype)


def _no_numbers(signature: Signature) -> UserError:
    return UserError(f"the images of signature {signature.name} must be numbers, all of one shape")


def encode(answer: Mapping[str, np.ndarray], by_rows: bool) -> bytes:
    """Returns the body of the answer, as TensorFlow Serving words it."""
    columns = {name: values.tolist() for name, values in answer.items()}
    if not by_rows:
        single = next(iter(columns.values())) if len(columns) == 1 else columns
        return json.dumps({"outputs": single}).encode()
    if len(columns) == 1:
        return json.dumps({"predictions": next(iter(columns.values()))}).encode()
    names = sorted(columns)
    rows = [
        dict(zip(names, row, strict=True))
        for row in zip(*(columns[name] for name in names), strict=True)
    ]
    return json.dumps({"predictions": rows}).encode()


def status(version: str) -> dict[str, Any]:
    """Returns what the status endpoint answers."""
    fine = {"error_code": "OK", "error_message": ""}
    return {"model_version_status": [{"version": version, "state": "AVAILABLE", "status": fine}]}


def metadata(name: str, version: str, signatures: Mapping[str, Signature]) -> dict[str, Any]:
    """Returns what the metadata endpoint answers."""

    def tensor(spec: tf.TensorSpec) -> dict[str, Any]:
        known = spec.shape.rank is not None
        sizes = [str(-1 if size is None else size) for size in spec.shape] if known else []
        shape = {"dim": [{"size": s, "name": ""} for s in sizes], "unknown_rank": not known}
        kind = tf.dtypes.as_dtype(spec.dtype).as_datatype_enum
        return {"dtype": _DTYPES[kind], "tensor_shape": shape, "name": spec.name or ""}

    definitions = {
        signature.name: {
            "inputs": {signature.input_name: tensor(signature.spec)},
            "outputs": {key: tensor(spec) for key, spec in signature.outputs.items()},
            "method_name": "tensorflow/serving/predict",
        }
        for signature in signatures.values()
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": version},
        "metadata": {"signature_def": {"signature_def": definitions}},
    }


_DTYPES = {
    tf.float32.as_datatype_enum: "DT_FLOAT",
    tf.uint8.as_datatype_enum: "DT_UINT8",
    tf.string.as_datatype_enum: "DT_STRING",
    tf.bool.as_datatype_enum: "DT_BOOL",
}
