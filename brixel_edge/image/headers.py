"""What the first bytes of a picture's file say before it is decoded: its size, and what decoding will take."""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEADER_BYTES = 1 << 18  # a JPEG's size may lie behind a thumbnail and a colour profile
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# PNG's colour types as OpenCV gives them unchanged: grey, RGB, palette, grey with alpha, RGB with alpha.
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 4, 6: 4}
_PNG_PALETTE, _TRANSPARENCY = 3, b"tRNS"
_WEBP_ALPHA = 0x10


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """What a picture is, as stored.

    Attributes:
        height: [px].
        width: [px].
        channels: of what OpenCV decodes.
        sample_bytes: of one channel of one pixel.
    """

    height: int
    width: int
    channels: int = 3
    sample_bytes: int = 1

    @property
    def bgr_bytes(self) -> int:
        """As the frame that it becomes."""
        return 3 * self.height * self.width

    @property
    def decoding_bytes(self) -> int:
        """What decoding takes at its peak.

        OpenCV holds the pixels twice when it hands them out; after that eight bits and three channels are made of them.
        """
        pixels = self.height * self.width
        raw = pixels * self.channels * self.sample_bytes
        eight_bits = pixels * self.channels if self.sample_bytes > 1 else 0
        bgr = self.bgr_bytes if self.channels != 3 else 0
        return max(2 * raw, raw + eight_bits + bgr)


def image_header(data: bytes) -> ImageHeader | None:
    """Of a JPEG, PNG, WebP or BMP; None where the bytes do not tell."""
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg_header(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png_header(data)
        if data.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", data, 18)
            return ImageHeader(height=abs(height), width=width)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_header(data)
    except (struct.error, IndexError):
        pass
    return None


def _png_header(data: bytes) -> ImageHeader:
    width, height, bits, kind = struct.unpack_from(">IIBB", data, 16)
    channels = _PNG_CHANNELS.get(kind, 4)
    if kind == _PNG_PALETTE and _TRANSPARENCY in data[: data.find(b"IDAT")]:
        channels = 4
    return ImageHeader(height=height, width=width, channels=channels, sample_bytes=2 if bits == 16 else 1)


def _jpeg_header(data: bytes) -> ImageHeader | None:
    position = 2
    while position < len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return ImageHeader(height=height, width=width)
        if marker == 0xFF:  # fill bytes
            position += 1
        else:
            position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    return None


def _webp_header(data: bytes) -> ImageHeader | None:
    kind = data[12:16]
    if kind == b"VP8X":
        height, width = (1 + int.from_bytes(data[start : start + 3], "little") for start in (27, 24))
        if len(data) < 30:
            return None
        return ImageHeader(height=height, width=width, channels=4 if data[20] & _WEBP_ALPHA else 3)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader(height=height & 0x3FFF, width=width & 0x3FFF)
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        channels = 4 if bits >> 28 & 1 else 3
        return ImageHeader(height=1 + (bits >> 14 & 0x3FFF), width=1 + (bits & 0x3FFF), channels=channels)
    return None
