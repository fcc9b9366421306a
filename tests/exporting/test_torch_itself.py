"""Our files in PyTorch's hands and PyTorch's in ours, where PyTorch is at hand."""

import numpy as np
import pytest

from adios_tf.exporting.torch_file import read_torch_checkpoint, write_torch_checkpoint

torch = pytest.importorskip("torch", reason="compares with PyTorch, which nothing here needs")


def test_pytorch_reads_what_we_write(tmp_path):
    rng = np.random.default_rng(0)
    state = {
        "conv.weight": rng.normal(size=(4, 3, 3, 3)).astype("f4"),
        "norm.num_batches_tracked": np.array(7),
        "empty": np.zeros((0, 2), "f4"),
    }
    write_torch_checkpoint(tmp_path / "ours.ckpt", {"state_dict": state, "epoch": 3})
    found = torch.load(tmp_path / "ours.ckpt", weights_only=True)
    assert found["epoch"] == 3
    assert list(found["state_dict"]) == list(state)
    for name, array in state.items():
        assert found["state_dict"][name].is_contiguous()
        assert found["state_dict"][name].numpy().dtype == array.dtype
        np.testing.assert_array_equal(found["state_dict"][name].numpy(), array)


def test_we_read_what_pytorch_writes(tmp_path):
    """Also views, transposes, tensors of one memory, half precision, scalars and parameters."""
    base = torch.arange(16.0).reshape(4, 4)
    state = {
        "base": base,
        "transposed": base.t(),
        "part": base[1:, 2:],
        "bfloat16": torch.randn(5).bfloat16(),
        "half": torch.randn(3).half(),
        "scalar": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(torch.randn(2, 3)),
        "empty": torch.empty(0, 3),
    }
    torch.save({"state_dict": state}, tmp_path / "theirs.ckpt")
    found = read_torch_checkpoint(tmp_path / "theirs.ckpt")["state_dict"]
    assert list(found) == list(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(
            np.asarray(found[name], "f8"), tensor.detach().double().numpy(), err_msg=name
        )
