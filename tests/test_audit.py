"""`.ci/audit`: what it makes of what pip-audit answers."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GOOD = {"name": "one", "version": "1.0", "vulns": []}
BAD = {"name": "two", "version": "2.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}
UNKNOWN = {"name": "three", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "code", "line"),
    [
        ([GOOD], 0, "1 of 1 packages audited"),
        ([GOOD, BAD], 1, "two 2.0: CVE-1, mended in 2.1"),
        ([UNKNOWN], 0, "0 of 1 packages audited: NOT AUDITED"),
        (None, 0, "NOT AUDITED: the vulnerability service cannot be asked (no route)"),
    ],
)
def test_a_vulnerability_fails_and_silence_is_told(tmp_path, packages, code, line):
    """A stand-in for pip-audit writes the answer; it exits with 1 without network, too."""
    program = tmp_path / "pip-audit"
    answer = "" if packages is None else json.dumps({"dependencies": packages})
    program.write_text(
        "#!/bin/sh\nfor a; do case $a in --output=*) out=${a#--output=};; esac; done\n"
        f"[ -z '{answer}' ] || echo '{answer}' > $out\necho 'no route' >&2\nexit 1\n"
    )
    program.chmod(0o755)
    path = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([ROOT / ".ci" / "audit"], env=path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")
    assert line in done.stdout
