"""Certificate: what the server proves its name with."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl

from edge_detector.errors import PublishError
from edge_detector.web_config import WebConfig

logger = logging.getLogger(__name__)

LOOK_S = 60.0  # how often it is looked whether the file was renewed


class Certificate:
    """The files that `tls_cert` and `tls_key` name, in `context`, which takes them anew when they were renewed.

    Raises:
        PublishError: they cannot be used.
    """

    def __init__(self, settings: WebConfig) -> None:
        self._cert, self._key = settings.tls_cert or "", settings.tls_key or ""
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            self._changed = self._state()
            self._load()
        except (OSError, ssl.SSLError) as error:
            named = "" if error.filename is None else f"{error.filename}: "
            raise PublishError(
                f"web.tls_cert and web.tls_key cannot be used: {named}{error.strerror or error}"
            ) from error

    async def renew(self, every_s: float = LOOK_S) -> None:
        """Look for a renewed certificate, for ever."""
        while True:
            await asyncio.sleep(every_s)
            try:
                state = self._state()
                if state != self._changed:
                    self._load()
                    logger.info("the renewed certificate %s is in use", self._cert)
                self._changed = state
            except (OSError, ssl.SSLError) as error:  # half written, perhaps
                logger.warning("the renewed certificate %s cannot be used yet: %s", self._cert, error)

    def _state(self) -> list[float]:
        return [os.stat(path).st_mtime for path in (self._cert, self._key)]  # noqa: PTH116 - as short as can be

    def _load(self) -> None:
        trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # a failure leaves `context` as it was
        trial.load_cert_chain(self._cert, self._key, password=lambda: "")
        self.context.load_cert_chain(self._cert, self._key, password=lambda: "")
