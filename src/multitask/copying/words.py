"""Names, sizes, times and counts as people read them and shells take them; pure."""

from __future__ import annotations

import re
import shlex


def shown(text: str) -> str:
    """A name for people: bytes that are no text, control and direction marks as escapes, the rest as it is."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", _escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode's way of keeping a byte that is no text
        return f"\\x{code - 0xDC00:02x}"
    short = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return short.get(match[0]) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def typed(text: str) -> str:
    """*text* as an argument that can be typed into a shell and means the same there, whatever bytes it has."""
    if text.startswith("-"):
        text = f"./{text}"
    if shown(text) == text and text.isprintable():  # what no font has, nobody can type
        return shlex.quote(text)
    raw = text.encode("utf-8", "surrogateescape")
    body = "".join(chr(b) if 0x20 <= b < 0x7F and chr(b) not in "\\'" else f"\\x{b:02x}" for b in raw)
    return f"$'{body}'"


def size_text(size: float) -> str:
    """1536 -> "1.5 kB"; powers of 1000, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < 999.5 or unit == "TB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def time_text(seconds: float) -> str:
    """75 -> "1:15", 0.25 -> "0.25 s"."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def count_text(count: int, one: str, many: str | None = None) -> str:
    """2, "file" -> "2 files"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
