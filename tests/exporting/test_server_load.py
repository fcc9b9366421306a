"""The short form of tests/faults/server_load_program.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("aiohttp", reason="needs aiohttp: pip install 'adios_tf[serve]'")
PROGRAM = Path(__file__).resolve().parents[1] / "faults" / "server_load_program.py"


@pytest.mark.slow
def test_a_quarter_of_a_minute_in_two_sessions(tmp_path):
    page = tmp_path / "page.md"
    command = [sys.executable, PROGRAM, f"--state={tmp_path}", f"--page={page}"]
    for minutes in (0.15, 0.25):  # the second call goes on from the first
        done = subprocess.run(
            [*command, f"--minutes={minutes}"], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    sessions = [json.loads(line) for line in (tmp_path / "sessions.jsonl").open()]
    assert len(sessions) == 2
    assert sum(session["counts"]["right"] for session in sessions) > 50
    text = page.read_text()
    assert " 0 wrong, 0 lost; refused with " in text
    assert "| SIGTERM under load | 2 | 2 ended with exit code 0" in text
    assert "0 tracebacks in the log" in text
