"""Where unfinished work lies, outside the outputs of stages: DVC deletes those before a run."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO, Any

from uld.base import runtime
from uld.base.errors import ULDError

_locks: dict[Path, int] = {}  # open files that lock the scratch folders that this process uses


def scratch_folder(stage: str, **identity: Any) -> Path:
    """Folder for the resume state of an unfinished stage, keyed by everything that defines its result.

    `identity` must be JSON-serialisable: declared params and fingerprints of the inputs. Another identity gets another
    folder, so stale state is never picked up. Lives outside the outputs (DVC deletes those before a run). Where a
    stage runs in several processes, all must ask.

    Raises:
        ULDError: another process is at the same work.
    """
    text = json.dumps(identity, sort_keys=True, default=str)
    folder = scratch_root() / f"{stage}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    _lock(folder)
    if os.environ.get("ULD_RESUME", "1") == "0" and not runtime.process():
        shutil.rmtree(folder, ignore_errors=True)
    if runtime.processes() > 1:
        import torch

        torch.distributed.barrier()  # none sees state that the first one discards
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def unnamed_file() -> IO[bytes]:
    """An unbuffered file in the scratch folder that has no name and vanishes when it is closed, or the process ends."""
    scratch_root().mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=scratch_root(), buffering=0)


def scratch_root() -> Path:
    """Where unfinished work lies: `ULD_SCRATCH`, or .scratch beside dvc.yaml."""
    return Path(os.environ.get("ULD_SCRATCH") or Path(os.environ.get("DVC_ROOT", ".")) / ".scratch")


def _lock(folder: Path) -> None:
    """Keep a scratch folder to this process (and those it started) until it ends."""
    if folder in _locks or runtime.process():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(folder.with_name(f".{folder.name}.lock"), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise ULDError(f"another process is at the same work in {folder}: wait for it, or stop it.") from error
    except OSError as error:  # not every file system of a cluster has locks
        print(
            f"warning: {folder.parent} cannot be locked ({error.strerror}): see to it that no second run does the same "
            "work, or set ULD_SCRATCH to a folder on another disk.",
            flush=True,
        )
    _locks[folder] = file
