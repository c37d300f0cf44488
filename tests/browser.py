"""A headless Chromium that opens one file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def chromium(page: Path, folder: Path, *flags: str, size: str = "1300,9000", at: str = "") -> str:
    """What the browser prints; ``at`` is put behind the address ("#part")."""
    assert CHROMIUM is not None
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [CHROMIUM, *FLAGS, f"--window-size={size}", profile, *flags, page.as_uri() + at]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
