"""What the header of a GGUF file tells, without reading its vocabulary or its weights."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import BinaryIO

from reader.errors import UnknownModel

# https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
MAGIC = b"GGUF"
STRING, ARRAY = 8, 9
FORMATS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i",
    6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
WHOLE_NUMBERS = {0, 1, 2, 3, 4, 5, 10, 11}
MOST_ENTRIES = 100_000
LONGEST_KEY = 65_535  # bytes
LONGEST_VALUE = 1 << 40  # bytes
EDGE = 4 << 20  # bytes


def trained_window(path: Path) -> int:
    """Tokens of prompt and reply that the model was trained for (``*.context_length``).

    Raises:
        UnknownModel: there is no such file, or it is not a GGUF language model.
    """
    try:
        with path.open("rb") as file:
            return _context_length(file)
    except OSError as error:
        raise UnknownModel(
            f"{path} cannot be read ({error.strerror}).", hint="Check the path after gguf:."
        ) from error
    except (struct.error, ValueError, KeyError):
        raise UnknownModel(
            f"{path} is not a GGUF model.",
            hint="Pass the path of a .gguf file of a language model.",
        ) from None


def file_identity(path: Path) -> str:
    """Tells files apart at little cost: size, and SHA-256 of the first and last 4 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(file.read(EDGE))
        file.seek(max(size - EDGE, 0))
        digest.update(file.read(EDGE))
    return f"gguf:{size}:{digest.hexdigest()}"


def _context_length(file: BinaryIO) -> int:
    if file.read(4) != MAGIC or _number(file, "<I") not in (2, 3):
        raise ValueError("magic or version")
    _number(file, "<Q")  # tensors
    entries = _number(file, "<Q")
    if entries > MOST_ENTRIES:
        raise ValueError("entries")
    for _ in range(entries):
        length = _number(file, "<Q")
        if length > LONGEST_KEY:
            raise ValueError("key")
        key, kind = file.read(length), _number(file, "<I")
        if key.endswith(b".context_length") and kind in WHOLE_NUMBERS:
            window = _number(file, FORMATS[kind])
            if window < 1:
                raise ValueError("window")
            return window
        _skip(file, kind)
    raise ValueError("no context length")


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == STRING:
        _forward(file, _number(file, "<Q"))
    elif kind != ARRAY:
        _forward(file, struct.calcsize(FORMATS[kind]))
    else:
        inner, count = _number(file, "<I"), _number(file, "<Q")
        if inner == STRING:
            for _ in range(count):
                _forward(file, _number(file, "<Q"))
        else:
            _forward(file, struct.calcsize(FORMATS[inner]) * count)


def _forward(file: BinaryIO, count: int) -> None:
    if count > LONGEST_VALUE:
        raise ValueError("value")
    file.seek(count, os.SEEK_CUR)


def _number(file: BinaryIO, form: str) -> int:
    (value,) = struct.unpack(form, file.read(struct.calcsize(form)))
    return int(value)
