"""A small disk of its own: ext4 in a file where that can be mounted, else tmpfs; both need root."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

_CLONE_NEWNS = 0x00020000


def keep_mounts_to_ourselves() -> None:
    """From now on mount what only this process and its children see, and what goes when the last of them has ended.

    Call it before any thread is started. Without root nothing happens, nor can anything be mounted.
    """
    libc = ctypes.CDLL(None)
    if libc.unshare(_CLONE_NEWNS) == 0:
        _runs("mount", "--make-rprivate", "/")


class SmallDisk:
    """A file system of `megabytes`, mounted at `folder` while `kind` is not ""; its medium is the file `image`."""

    def __init__(self, folder: Path, megabytes: int, image: Path | None = None) -> None:
        self.folder = folder
        self.image = image or folder.with_name(folder.name + ".img")
        self._ballast = folder / "ballast"
        folder.mkdir(parents=True, exist_ok=True)
        self.kind = ""
        if self._mount_ext4(megabytes):
            self.kind = "ext4"
        elif _runs("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)):
            self.kind = "tmpfs"

    def fill(self) -> None:
        """Take all the room that is left."""
        with self._ballast.open("ab") as file:
            step = 64 * 1024 * 1024
            while step >= 4096:
                try:
                    os.posix_fallocate(file.fileno(), file.tell(), step)
                    file.seek(0, os.SEEK_END)
                except OSError:
                    step //= 4

    def free(self) -> None:
        """Give it back."""
        self._ballast.unlink(missing_ok=True)

    def cut(self, copy: Path) -> None:
        """Copy what is on the medium at one moment: without what Linux still holds in memory, as after a power cut."""
        device = next(
            path.parents[1]
            for path in Path("/sys/block").glob("loop*/loop/backing_file")
            if path.read_text().strip() == str(self.image)
        )
        for _ in range(50):
            before = _writes(device)
            subprocess.run(["cp", "--sparse=always", str(self.image), str(copy)], check=True)
            if _writes(device) == before and before[1] == 0:
                return
        raise RuntimeError("the disk is written to all the time")

    def close(self) -> None:
        """Unmount it, and delete all that is on it."""
        if self.kind and not _runs("umount", str(self.folder)):
            _runs("umount", "--lazy", str(self.folder))
        self.kind = ""
        self.image.unlink(missing_ok=True)

    def _mount_ext4(self, megabytes: int) -> bool:
        if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
            return False
        with self.image.open("wb") as file:
            file.truncate(megabytes * 1024 * 1024)
        made = _runs("mkfs.ext4", "-q", "-m", "0", str(self.image))
        if made and _runs("mount", "-o", "loop", str(self.image), str(self.folder)):
            return True
        with suppress(OSError):
            self.image.unlink()
        return False


def _writes(device: Path) -> tuple[int, int]:
    """Return how many writes a block device has completed, and how many requests are under way."""
    fields = (device / "stat").read_text().split()
    return int(fields[4]), int(fields[8])


def _runs(*command: str) -> bool:
    try:
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False
