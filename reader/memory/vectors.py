"""Vectors of passages, kept as faiss files in the store's folder.

A file holds one part of a document's vectors and is named after the hash of its bytes; the store
knows which file is which part. So several processes may write at once, and a damaged file is known
by its name: it is reported, and its vectors are made anew. A store in memory keeps the bytes.

The index is flat (exact inner product): a document has thousands of passages, not millions.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reader.errors import StoreFull, StoreUnavailable
from reader.memory.store import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VECTORS_VERSION = 1
FOLDER = "vectors"


def keep_vectors(store: Store, key: str, vectors: NDArray[np.float32]) -> None:
    """Keep a part of vectors under a key; they are scaled to length one.

    Args:
        store: Where to.
        key: Says all that the vectors depend on: document, passages, part, embedder.
        vectors: ``[passages, dimension]``.

    Raises:
        StoreError: they could not be kept.
    """
    import faiss
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.ascontiguousarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    data = faiss.serialize_index(index).tobytes()
    digest = hashlib.sha256(data).hexdigest()
    payload: dict[str, Any] = {"version": VECTORS_VERSION, "sha256": digest}
    if store.folder is None:
        payload["bytes"] = base64.b64encode(data).decode()
    else:
        _write(store.folder / FOLDER, f"{digest}.faiss", data)
    store.keep_artifact(_key(key), "vectors", payload)


def has_vectors(store: Store, key: str) -> bool:
    """Whether a usable part is kept under the key; a damaged one is reported and forgotten."""
    return _data(store, key) is not None


def load_vectors(store: Store, keys: Sequence[str]) -> VectorIndex | None:
    """The parts as one index, in order; None where one is missing or damaged."""
    import faiss
    import numpy as np

    index = None
    for key in keys:
        data = _data(store, key)
        if data is None:
            return None
        part = faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
        if index is None:
            index = part
        elif part.d != index.d:
            return None
        else:
            index.merge_from(part)
    return None if index is None else VectorIndex(index)


class VectorIndex:
    """Vectors that can be ranked by their likeness to another one."""

    def __init__(self, index: Any) -> None:
        self._index = index

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return int(self._index.d)

    def rank(self, query: NDArray[np.float32], limit: int | None = None) -> list[tuple[int, float]]:
        """Rows by cosine likeness to one vector ``[dimension]``, as (row, likeness), best first."""
        import numpy as np

        unit = np.asarray(query, dtype=np.float32).reshape(1, -1)
        unit = np.ascontiguousarray(unit / max(float(np.linalg.norm(unit)), 1e-12))
        scores, rows = self._index.search(unit, min(limit or len(self), len(self)))
        return [(int(row), float(score)) for row, score in zip(rows[0], scores[0], strict=True)]


def _key(key: str) -> str:
    return f"vectors/{VECTORS_VERSION}|{key}"


def _data(store: Store, key: str) -> bytes | None:
    known = store.artifact(_key(key))
    if not isinstance(known, dict):
        return None
    try:
        if store.folder is None:
            data = base64.b64decode(known["bytes"])
        else:
            data = (store.folder / FOLDER / f"{known['sha256']}.faiss").read_bytes()
    except (KeyError, ValueError, OSError):
        data = b""
    if hashlib.sha256(data).hexdigest() == known.get("sha256"):
        return data
    store.notices.append("Vectors in the store were damaged or missing; they are made anew.")
    return None


def _write(folder: Path, name: str, data: bytes) -> None:
    """Write a file that is there whole or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(dir=folder, suffix=".new")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(path).replace(folder / name)
        except BaseException:
            Path(path).unlink(missing_ok=True)
            raise
    except OSError as error:
        import errno

        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"The disk of the store {folder.parent} is full.") from None
        raise StoreUnavailable(
            f"{folder} cannot be written to: {error.strerror or error}."
        ) from None
