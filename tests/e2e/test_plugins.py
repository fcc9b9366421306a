"""A user's own words, from a file outside the package, through bin/pretrain.py."""

import json
import re
import subprocess
import sys
from pathlib import Path

from adios_tf.reporting.tables import read_jsonl

ROOT = Path(__file__).resolve().parents[2]


def test_own_objective_masking_and_fill(tmp_path, folder):
    """The file that CONTRIBUTING.md shows lies in the user's folder and trains from there."""
    code, _ = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    (tmp_path / "my_components.py").write_text(code)
    words = {"objective": "align_uniform", "masking": "band", "fill": "mirror"}
    command = [sys.executable, str(ROOT / "bin" / "pretrain.py"), "--plugins=my_components"]
    command += [f"--{kind}={name}" for kind, name in words.items()]
    command += f"--dataset={folder} --run_dir=run --backbone=convnet_small".split()
    command += "--image_size=16 --hidden_dim=8 --output_dim=8 --batch_size=8 --epochs=2".split()
    command += "--optimizer=adamw --learning_rate=0.001 --warmup_epochs=0".split()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    records = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [record["epoch"] for record in records] == [1, 2]
    card = json.loads(next((tmp_path / "run" / "model").glob("*.json")).read_text())
    assert {kind: card[kind] for kind in words} == words
    listed = subprocess.run(
        [*command[:3], "--list"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    for name in words.values():
        assert re.search(rf"^\s*{name} ", listed.stdout, re.MULTILINE), name
