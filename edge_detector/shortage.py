"""When the system has no memory or no room for a thread: what was wanted fails, and may work a moment later."""

from __future__ import annotations

import errno

_CV_NO_MEMORY = -4  # cv2.Error.StsNoMem


def is_shortage(error: BaseException) -> bool:
    """Return whether `error` says so, as Python, the system or OpenCV do."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.ENOBUFS, errno.EMFILE, errno.ENFILE))
        or (isinstance(error, RuntimeError) and "start new thread" in str(error))
        or getattr(error, "code", None) == _CV_NO_MEMORY
    )
