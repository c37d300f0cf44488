"""Weights on the Hugging Face model hub.

``huggingface_hub`` tells where a file lies, what its hash is and which token to show. The bytes are
fetched here: its own download starts from zero after a break.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reader.errors import DownloadFailed, UnknownModel
from reader.llm.catalogue import HubFile
from reader.llm.transfer import Transfer, network_errors

SECONDS_TO_ANSWER = 5.0


def from_hub(source: HubFile, target: Path, transfer: Transfer, sha256: str | None = None) -> None:
    """Fetch a file of the hub; it is checked against ``sha256``, else against the hub's own.

    Raises:
        UnknownModel: the hub has no such file, or does not show it to this user.
        DownloadFailed: the hub does not answer, or its file is not the one expected.
    """
    import requests
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
    )

    # Asked for here, since huggingface_hub reads it once, when imported.
    endpoint = os.environ.get("HF_ENDPOINT")
    with quiet_hub():
        try:
            about = get_hf_file_metadata(
                hf_hub_url(source.repo, source.file, endpoint=endpoint),
                timeout=SECONDS_TO_ANSWER,
                endpoint=endpoint,
            )
        except (RepositoryNotFoundError, GatedRepoError, RemoteEntryNotFoundError) as error:
            raise UnknownModel(
                f"The model hub does not show {source.repo}/{source.file}.",
                hint="Check the name; private and gated models need a token in HF_TOKEN.",
            ) from error
        except HfHubHTTPError as error:
            raise DownloadFailed(
                f"The model hub answers with status {error.response.status_code}."
            ) from error
        except Exception as error:
            # The hub's client changes its HTTP library between versions: no common base class.
            raise DownloadFailed(f"The model hub does not answer ({type(error).__name__}).") from (
                error
            )
        told = about.etag if re.fullmatch(r"[0-9a-f]{64}", about.etag or "") else None
        if sha256 is not None and told is not None and told != sha256:
            raise DownloadFailed(f"The model hub has another {source.file}: the SHA-256 differs.")
        transfer.total = about.size or 0
        url = hf_hub_url(source.repo, source.file, revision=about.commit_hash, endpoint=endpoint)
        token = get_token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with network_errors("The model hub"), requests.Session() as session:
            transfer.fetch(session, url, target, sha256=sha256 or told, headers=headers)


@contextmanager
def quiet_hub() -> Iterator[None]:
    """No advice of the hub's on standard error meanwhile."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
