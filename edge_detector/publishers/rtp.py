"""H.264 in RTP packets (RFC 6184), and the reports that go with them (RFC 3550)."""

from __future__ import annotations

import base64
import secrets
import struct
from collections.abc import Iterator

from edge_detector.publishers.h264 import CLOCK_HZ, PPS, SPS, VideoPacket, kind_of, nal_units

PAYLOAD_TYPE = 96
PAYLOAD_BYTES = 1400  # fits where the server passes it on by UDP
_FU_A = 28
_NTP_EPOCH_S = 2_208_988_800  # seconds from 1900 to 1970
_SENDER_REPORT = 200


def describe(keyframe: VideoPacket) -> str:
    """Return the session description (SDP) of a stream that begins with `keyframe`."""
    headers = {kind_of(unit): unit for unit in nal_units(keyframe.data) if kind_of(unit) in (SPS, PPS)}
    parameters = ",".join(base64.b64encode(headers[kind]).decode() for kind in sorted(headers))
    lines = (
        "v=0",
        "o=- 0 0 IN IP4 127.0.0.1",
        "s=edge_detector",
        "c=IN IP4 0.0.0.0",
        "t=0 0",
        f"m=video 0 RTP/AVP {PAYLOAD_TYPE}",
        f"a=rtpmap:{PAYLOAD_TYPE} H264/{CLOCK_HZ}",
        f"a=fmtp:{PAYLOAD_TYPE} packetization-mode=1; profile-level-id={headers[SPS][1:4].hex()}; "
        f"sprop-parameter-sets={parameters}",
        "a=control:video",
    )
    return "".join(f"{line}\r\n" for line in lines)


class RtpStream:
    """Numbers the packets of one stream."""

    def __init__(self) -> None:
        self._ssrc = secrets.randbits(32)
        self._sequence = secrets.randbits(15)
        self._origin = secrets.randbits(32)
        self._packets = 0
        self._bytes = 0

    def packets(self, picture: VideoPacket) -> Iterator[bytes]:
        """Yield the RTP packets of a picture."""
        payloads = [payload for unit in nal_units(picture.data) for payload in _payloads(unit)]
        for number, payload in enumerate(payloads, 1):
            kind = PAYLOAD_TYPE | (0x80 if number == len(payloads) else 0)
            yield struct.pack(">BBHII", 0x80, kind, self._sequence, self._time(picture.pts), self._ssrc) + payload
            self._sequence = (self._sequence + 1) & 0xFFFF
            self._packets += 1
            self._bytes += len(payload)

    def report(self, pts: int, wall_time: float) -> bytes:
        """Return the RTCP packet which says that the picture of `pts` is of `wall_time`, seconds since the epoch."""
        ntp = round((wall_time + _NTP_EPOCH_S) * 2**32)
        counts = self._packets & 0xFFFFFFFF, self._bytes & 0xFFFFFFFF
        return struct.pack(">BBHIQIII", 0x80, _SENDER_REPORT, 6, self._ssrc, ntp, self._time(pts), *counts)

    def _time(self, pts: int) -> int:
        return (self._origin + pts) & 0xFFFFFFFF


def _payloads(unit: bytes) -> Iterator[bytes]:
    """Yield a NAL unit as it is, or in fragments (RFC 6184, section 5.8) where it is too large."""
    if len(unit) <= PAYLOAD_BYTES:
        yield unit
        return
    indicator, kind, size = (unit[0] & 0xE0) | _FU_A, kind_of(unit), PAYLOAD_BYTES - 2
    for start in range(1, len(unit), size):
        first, last = start == 1, start + size >= len(unit)
        yield bytes([indicator, kind | 0x80 * first | 0x40 * last]) + unit[start : start + size]
