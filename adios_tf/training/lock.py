"""One process per run folder."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from adios_tf.errors import UserError

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder and holds its lock, which the system lifts when the process ends.

    So the file of a process that was killed stands in nobody's way. On a network file system that
    knows no locks, one line says that none is held; between machines of one NFS the lock holds
    where the server and the mount pass `flock` on (NFSv4 does, `nolock` does not).

    Raises:
      UserError: another process holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(
            f"cannot write {folder} ({error.strerror}): take another --run_dir"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            raise UserError(
                f"{folder} is being written by {owner}: wait for it, or take another --run_dir"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            tqdm.write(f"{folder} cannot be locked ({error.strerror}): start no second process")
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(handle)
