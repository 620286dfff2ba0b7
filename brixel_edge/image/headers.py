"""What the first bytes of a picture's file say before it is decoded: its size, and what decoding will take."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from brixel_edge.image.tiff_header import Read, is_tiff, tiff_layout

_HEADER_BYTES, _NETPBM_BYTES = 1 << 18, 1 << 10  # a JPEG's size may lie behind a thumbnail and a colour profile
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
        is_jpeg_2000: decoded by OpenJPEG.
    """

    height: int
    width: int
    channels: int = 3
    sample_bytes: int = 1
    is_jpeg_2000: bool = False

    @property
    def bgr_bytes(self) -> int:
        """As the frame that it becomes."""
        return 3 * self.height * self.width

    def decoding_bytes(self, file_bytes: int) -> int:
        """What decoding takes at its peak, the file that is decoded included.

        OpenCV holds the pixels twice when it hands them out; after that eight bits and three channels are made of them.
        OpenJPEG, for JPEG 2000, holds a copy of the file, and every sample as four bytes beside the picture.
        """
        pixels = self.height * self.width
        samples = pixels * self.channels
        raw = samples * self.sample_bytes
        if self.is_jpeg_2000:
            return 2 * file_bytes + 4 * samples + raw
        eight_bits = samples if self.sample_bytes > 1 else 0
        bgr = self.bgr_bytes if self.channels != 3 else 0
        return file_bytes + max(2 * raw, raw + eight_bits + bgr)


def file_header(path: Path) -> ImageHeader | None:
    """Of a picture's file; None where it does not tell.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:

        def read(position: int, count: int) -> bytes:
            stream.seek(position)
            return stream.read(count)

        return _header(read(0, _HEADER_BYTES), read)


def image_header(data: bytes) -> ImageHeader | None:
    """Of a JPEG, PNG, WebP, BMP, TIFF, JPEG 2000, PGM or PPM; None where the bytes do not tell."""
    return _header(data, lambda position, count: data[position : position + count])


def _header(data: bytes, read: Read) -> ImageHeader | None:
    try:
        if is_tiff(data):
            height, width, channels, sample_bytes = tiff_layout(read)
            return ImageHeader(height=height, width=width, channels=channels, sample_bytes=sample_bytes)
        for start, header_of in _KINDS.items():
            if data.startswith(start):
                return header_of(data)
    except (struct.error, IndexError, KeyError):
        pass
    return None


def _bmp_header(data: bytes) -> ImageHeader:
    width, height = struct.unpack_from("<ii", data, 18)
    return ImageHeader(height=abs(height), width=width)


def _netpbm_header(data: bytes) -> ImageHeader | None:
    """P5 or P6, width, height and the largest value, with comments up to the end of a line."""
    words = re.sub(rb"#[^\r\n]*", b"", data[:_NETPBM_BYTES]).split(maxsplit=4)[:4]
    if len(words) < 4 or not all(word.isdigit() for word in words[1:]):
        return None
    width, height, largest = map(int, words[1:])
    channels = 3 if words[0] == b"P6" else 1
    return ImageHeader(height=height, width=width, channels=channels, sample_bytes=2 if largest > 255 else 1)


def _jpeg_2000_header(data: bytes) -> ImageHeader | None:
    """By the box `ihdr`, whose name no other box before it contains."""
    at = data.find(b"ihdr")
    if at < 0:
        return None
    height, width, channels, bits = struct.unpack_from(">IIHB", data, at + 4)
    # Bits are counted from 0; the highest bit is the sign.
    sample_bytes = 2 if (bits & 0x7F) >= 8 else 1
    return ImageHeader(height=height, width=width, channels=channels, sample_bytes=sample_bytes, is_jpeg_2000=True)


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
    if data[8:12] != b"WEBP":
        return None
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


_KINDS: dict[bytes, Callable[[bytes], ImageHeader | None]] = {
    b"\xff\xd8": _jpeg_header,
    b"\x89PNG\r\n\x1a\n": _png_header,
    b"BM": _bmp_header,
    b"RIFF": _webp_header,
    b"P5": _netpbm_header,
    b"P6": _netpbm_header,
    b"\0\0\0\x0cjP  \r\n\x87\n": _jpeg_2000_header,
}
