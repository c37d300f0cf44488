"""``reader store``: what the store holds, where it is, and making it smaller."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reader.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reader.memory.pruning import Size

store_app = typer.Typer(help="Sizes of the store, its path, and pruning.")

StoreFolder = Annotated[
    Path | None, typer.Option("--store", help="Folder of the store; the user's cache by default.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_BYTES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@store_app.callback(invoke_without_command=True)
def show_store(context: typer.Context, store: StoreFolder = None, as_json: Json = False) -> None:
    """Show what the store holds, by kind, and its files."""
    if context.invoked_subcommand is not None:
        return
    from reader.memory.pruning import contents

    found = contents(_folder(store))
    if as_json:
        kinds = {name: {"count": s.count, "bytes": s.bytes} for name, s in found.kinds.items()}
        rest = {"files": found.files, "running": found.running}
        typer.echo(json.dumps({"folder": str(found.folder), "kinds": kinds, **rest}, indent=2))
        return
    typer.echo(f"{found.folder}: {said(found.bytes)}")
    _rows(found.kinds)
    for name, size in found.files.items():
        typer.echo(f"  {name:28} {'':>9}  {said(size):>10} on disk")
    if found.running:
        typer.echo(f"{found.running} runs are in progress.")


@store_app.command("path")
def show_path(store: StoreFolder = None) -> None:
    """Print the store's folder."""
    typer.echo(str(_folder(store)))


@store_app.command("prune")
def prune_store(
    older_than: Annotated[
        str | None, typer.Option(help="Remove what was made longer ago: 30d, 12h, 2w.")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(help="Remove the oldest until the files are no larger: 2GB.")
    ] = None,
    keep_runs: Annotated[
        int, typer.Option(min=0, help="So many of the newest runs stay, whatever their age.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    store: StoreFolder = None,
) -> None:
    """Remove remains, and what is old or too much; runs in progress are not touched."""
    from reader.memory.pruning import prune

    done = prune(
        _folder(store),
        older_than=None if older_than is None else seconds(older_than),
        max_bytes=None if max_size is None else size(max_size),
        keep_runs=keep_runs,
        dry_run=dry_run,
    )
    verb = "would be removed" if dry_run else "removed"
    typer.echo(f"{said(done.bytes)} {verb}" + (":" if done.kinds else ""))
    _rows(done.kinds)
    if not dry_run:
        typer.echo(f"The files are {said(done.freed)} smaller.")
    if done.running:
        typer.echo(f"{done.running} runs are in progress: what they may need was kept.")
    for note in done.notes:
        typer.echo(note)


def seconds(text: str) -> float:
    """Seconds of "30d", "12h", "90m", "45s", "2w".

    Raises:
        InvalidOption: anything else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*", text, re.IGNORECASE)
    if found is None:
        raise InvalidOption(f"{text!r} is no time.", hint="Write it like 30d, 12h or 2w.")
    return float(found[1]) * _SECONDS[found[2].lower()]


def size(text: str) -> int:
    """Bytes of "2GB", "500MB", "1.5G", "800".

    Raises:
        InvalidOption: anything else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", text, re.IGNORECASE)
    if found is None:
        raise InvalidOption(f"{text!r} is no size.", hint="Write it like 2GB or 500MB.")
    return int(float(found[1]) * _BYTES[found[2].upper()])


def said(count: int) -> str:
    """Bytes for people."""
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= power:
            return f"{count / power:,.1f} {unit}"
    return f"{count} bytes"


def _rows(kinds: Mapping[str, Size]) -> None:
    for name, found in kinds.items():
        typer.echo(f"  {name:28} {found.count:>9,}  {said(found.bytes):>10}")


def _folder(store: Path | None) -> Path:
    from reader.memory.store import default_folder

    return store or default_folder()
