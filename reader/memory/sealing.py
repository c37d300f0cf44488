"""Rows that know whether they are whole: a version and a checksum stand before the text.

SQLite notices a damaged page of its own, not a changed byte within a text: that one would be read
as if it were true.
"""

from __future__ import annotations

import hashlib

SEAL_VERSION = 1


def sealed(text: str) -> str:
    """The text with its version and checksum before it."""
    return f"{SEAL_VERSION}:{_checksum(text)}:{text}"


def unsealed(row: str) -> str | None:
    """The text of a row; None where the row is damaged or of another version."""
    version, _, rest = row.partition(":")
    checksum, _, text = rest.partition(":")
    return text if (version, checksum) == (str(SEAL_VERSION), _checksum(text)) else None


def _checksum(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
