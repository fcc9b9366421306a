"""Runs every program of this folder that injects faults, one after another.

    python tests/faults/all_programs.py --state=DIR           # many hours; goes on where it stopped
    python tests/faults/all_programs.py --state=DIR --short   # minutes, for CI; writes no docs

Each program keeps its state in a folder of DIR, and replaces its rows in docs/reliability.md (with
--short in a copy of that page, DIR/reliability.md). Exit code 1 if any of them found a failure.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from outcomes import PAGE

HERE = Path(__file__).resolve().parent
PROGRAMS = {  # what shortens them; alone they run in full
    "soak_program.py": "--kills=4 --saves=4 --damaged=4",
    "fuzz_images_program.py": "--images=460 --no-folders",
    "flags_program.py": "--combinations=24 --evaluations=9 --exports=4",
    "server_load_program.py": "--minutes=0.3",
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--short", action="store_true")
    given = parser.parse_args()
    given.state.mkdir(parents=True, exist_ok=True)
    page = shutil.copy(PAGE, given.state / PAGE.name) if given.short else PAGE
    failed = []
    for name, shorter in PROGRAMS.items():
        command = [sys.executable, str(HERE / name), f"--state={given.state / Path(name).stem}"]
        command += [f"--page={page}", *(shorter.split() if given.short else ())]
        started = time.monotonic()
        print(f"=== {name}", flush=True)
        code = subprocess.run(command, check=False).returncode
        print(f"=== {name}: exit code {code}, {time.monotonic() - started:.0f} s", flush=True)
        failed += [name] if code else []
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
