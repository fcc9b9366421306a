"""Runs, shortened, every command of README and docs/results.md, and the README's Python, for CI.

The two set-up lines are CI's own. A command that needs ../shared is skipped where that is missing.
"""

import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What makes a command short; later flags override earlier ones.
SHORT_PRETRAIN = [
    "--backbone=convnet_small",
    "--epochs=1",
    "--warmup_epochs=0",
    "--train_images=256",
    "--knn_train_images=200",
    "--knn_test_images=200",
    "--hidden_dim=32",
    "--masker_base=8",
    "--batch_size=64",
]
SHORTER = {
    "bin/evaluate.py": [
        "--train_images=300",
        "--test_images=200",
        "--sgd_epochs=2",
        "--sgd_decay_epochs=1",
        "--finetune_epochs=1",
        "--finetune_steps=5",
        "--knn_k=20",
    ],
    "bin/study.py": ["--methods=tests/e2e/one_method.txt", "--seeds=0", "--rounds=1"],
    "bin/benchmark.py": [
        "--backbone=convnet_small",
        "--batch_size=16",
        "--rounds=2",
        "--masker_base=8",
    ],
}


def commands(text: str) -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    return [shlex.split(line) for line in lines if ".venv" not in line]


def shortened(command: list[str], work: Path, number: int, moved: dict[str, str]) -> list[str]:
    """The command that CI runs; `moved` says where the runs of earlier ones lie instead."""
    extra = list(SHORTER.get(command[1], []))
    if command[1] == "bin/pretrain.py" and "--list" not in command:
        folder = str(work / str(number))
        moved |= {part[len("--run_dir=") :]: folder for part in command if "--run_dir=" in part}
        extra = [*SHORT_PRETRAIN, f"--run_dir={folder}"]
    if command[1] == "bin/study.py":
        extra += [f"--out={work / 'study'}"]
    known = {f"--run={run}": f"--run={folder}" for run, folder in moved.items()}
    return [sys.executable, *(known.get(part, part) for part in command[1:]), *extra]


def write_ten_classes() -> None:
    """Runs the block of docs/evaluation.md that writes the folder that results.md evaluates on."""
    text = (ROOT / "docs" / "evaluation.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    (code,) = [block for block in blocks if "ten_classes" in block]
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def main() -> None:
    text = (ROOT / "README.md").read_text()
    results = (ROOT / "docs" / "results.md").read_text()
    real_images = (ROOT / "../shared/tfds").is_dir()
    if real_images:
        write_ten_classes()
    moved: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as work:
        for number, command in enumerate(commands(text + results)):
            needs = ("../shared", "cifar10_short", "ten_classes")
            if not real_images and any(need in part for part in command for need in needs):
                print("skipped, no ../shared:", shlex.join(command), flush=True)
                continue
            assert command[0] == "python", f"a command that is not python: {command}"
            short = shortened(command, Path(work), number, moved)
            print("\n$", shlex.join(short), flush=True)
            subprocess.run(short, cwd=ROOT, check=True)
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert blocks
    print("\n$ the README's Python", flush=True)
    subprocess.run([sys.executable, "-c", "\n".join(blocks)], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
