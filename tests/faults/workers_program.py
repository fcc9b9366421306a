"""One of two workers that go through runs in turn (run by a test); prints how each of them ended.

Arguments: names of the runs with commas between, folder for them, folder of images, flags.
TF_CONFIG says which worker this is.
"""

import errno
import json
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from adios_tf.cli import parse
from adios_tf.distribution import strategy_for
from adios_tf.errors import Stopped, UserError
from adios_tf.evaluation.online import OnlineEvaluator
from adios_tf.training import callbacks, run
from adios_tf.training.config import PretrainConfig

WORKER = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
WANTED, ROOT, IMAGES, *FLAGS = sys.argv[1:]
writes, updates = [], []


def watch(event, args):
    """Python's side of writing: files opened to be written, folders made, files moved."""
    opened = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    changed = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
    if (opened or changed) and isinstance(args[0], str | bytes):
        writes.append(os.fsdecode(args[0]))


def attempt(name, run_dir, *flags):
    if name not in WANTED.split(","):
        return
    writes.clear()
    updates.clear()
    flags = [f"--dataset={IMAGES}", *FLAGS, f"--run_dir={ROOT}/{run_dir}", *flags]
    code, line = 0, ""
    try:
        run.pretrain(parse(PretrainConfig, flags))
    except UserError as error:
        code, line = 2, str(error)
    except Stopped as stop:
        code, line = Stopped.CODE, str(stop)
    written = sorted({path for path in writes if Path(path).is_relative_to(ROOT)})
    print(json.dumps([name, code, line, written, len(updates)]), flush=True)


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{ROOT}/full/model")


class Counting(callbacks.Guard):
    stop_after = 0

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        updates.append(batch)
        if WORKER == 1 and len(updates) == Counting.stop_after:
            os.kill(os.getpid(), signal.SIGTERM)


strategy = strategy_for()  # TensorFlow makes one of several workers once in a process
run.strategy_for = lambda *_: strategy
run.Guard = Counting
run.draw_curves = run.write_report = lambda *_: None
OnlineEvaluator.before = OnlineEvaluator.after = lambda self: {}
sys.addaudithook(watch)

other = ["--learning_rate=0.06", "--seed=3"] if WORKER else []
attempt("other flags", "flags", *other)
attempt("another folder", f"apart{WORKER}")
attempt("whole", "whole")
Counting.stop_after = 2
attempt("stopped", "stopped")
Counting.stop_after = 0
attempt("resumed", "stopped")
save_model, run._save_model = run._save_model, full_disk
attempt("full disk", "full")
run._save_model = save_model
