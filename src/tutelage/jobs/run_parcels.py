"""A run's folder as bytes, for nodes that share no folder: packed on one machine, taken into the store of another."""

from __future__ import annotations

import io
import shutil
import tarfile

from tutelage.runs.folders import make_folder
from tutelage.runs.run import Run


def pack(run: Run) -> bytes:
    """Return all files of a run; nothing of one that is not there."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        if run.path.is_dir():
            archive.add(run.path.resolve(), arcname=run.identity)
    return packed.getvalue()


def unpack(parcel: bytes, run: Run) -> None:
    """Put a packed run in its place, unless that has a complete one. It is there whole or not at all."""
    with tarfile.open(fileobj=io.BytesIO(parcel)) as archive:
        if not archive.getnames():
            return
        with run.lock():
            if run.is_complete:
                return
            arriving = run.path.with_name(f".arriving-{run.identity}")
            shutil.rmtree(arriving, ignore_errors=True)
            make_folder(arriving)
            archive.extractall(arriving, filter="data")
            if run.path.exists():
                run.remove()
            (arriving / run.identity).rename(run.path)
            shutil.rmtree(arriving, ignore_errors=True)
