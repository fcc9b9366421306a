"""Runs every command and every Python block of the README, shortened (CI calls this).

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


def shortened(command: list[str], work: Path, number: int) -> list[str]:
    extra = list(SHORTER.get(command[1], []))
    if command[1] == "bin/pretrain.py" and "--list" not in command:
        extra = [*SHORT_PRETRAIN, f"--run_dir={work / str(number)}"]
    return [sys.executable, *command[1:], *extra]


def main() -> None:
    text = (ROOT / "README.md").read_text()
    with tempfile.TemporaryDirectory() as work:
        for number, command in enumerate(commands(text)):
            if any("../shared" in part for part in command) and not (ROOT / "../shared").is_dir():
                print("skipped, no ../shared:", shlex.join(command), flush=True)
                continue
            assert command[0] == "python", f"README command that is not python: {command}"
            short = shortened(command, Path(work), number)
            print("\n$", shlex.join(short), flush=True)
            subprocess.run(short, cwd=ROOT, check=True)
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert blocks
    print("\n$ the README's Python", flush=True)
    subprocess.run([sys.executable, "-c", "\n".join(blocks)], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
