"""A real vLLM server on this machine, for tests and for trying things out.

    python tests/vllm_server.py convert           # model folders out of the library's GGUF models
    python tests/vllm_server.py serve smollm2     # a server in the foreground, until Ctrl-C

Runs in the environment that ``make vllm`` sets up, since vLLM wants a torch of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MODELS = {"smollm2": "embedded:tiny", "qwen0.5b": "embedded"}
EXTENSION = "reader.attention.vllm_extension.AttentionRows"
SECONDS_TO_START = 900.0  # on a machine that others use too
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "3600",
    "VLLM_NO_USAGE_STATS": "1",
    "KMP_BLOCKTIME": "0",  # threads that wait leave the processor to others
}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        url: Its address, without ``/v1``.
        process: The server.
        log: What it says.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path


def model_folder(name: str) -> Path:
    """Where the converted model lies; made where it is not there yet (half a minute)."""
    from reader.llm.download import models_folder

    folder = models_folder() / "vllm" / name
    if not (folder / "config.json").is_file():
        convert(name, folder)
    return folder


def convert(name: str, folder: Path) -> None:
    """A GGUF model of the catalogue as a folder that vLLM loads, in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from reader.llm.catalogue import entry
    from reader.llm.download import fetch

    file = asyncio.run(fetch(entry(MODELS[name])))
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    half = folder.with_name(f"{folder.name}.part")
    model.save_pretrained(half)
    tokenizer.save_pretrained(half)
    half.rename(folder)


@contextmanager
def vllm_server(
    folder: Path,
    log: Path,
    *,
    dtype: str = "float32",
    options: Sequence[str] = (),
    extension: bool = True,
    development: bool = True,
) -> Iterator[Server]:
    """A server on a free port of this machine; stopped, with its processes, at the end.

    Args:
        folder: The model.
        log: Where its words go.
        dtype: Of weights and keys; ``quick_dtype()`` where exact sums do not matter.
        options: More of the command line.
        extension: Start it with the attention extension.
        development: Open its development endpoints.

    Raises:
        RuntimeError: it did not come up; holds the end of the log.
    """
    port = free_port()
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(folder), "--served-model-name", folder.name),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", dtype, "--enforce-eager", "--enable-prompt-tokens-details"),
        *(("--worker-extension-cls", EXTENSION) if extension else ()),
        *options,
    ]
    environment = {**SETTINGS, **os.environ, "VLLM_SERVER_DEV_MODE": str(int(development))}
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, env=environment, stdout=said, stderr=said, start_new_session=True
        )
    server = Server(f"http://127.0.0.1:{port}", process, log)
    try:
        wait(server)
        yield server
    finally:
        stop(server)


def quick_dtype() -> str:
    """The faster of two: bfloat16 where the processor has it, which others imitate slowly."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "float32"
    return "bfloat16" if "avx512_bf16" in flags else "float32"


def wait(server: Server) -> None:
    """Until the server answers."""
    until = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < until and server.process.poll() is None:
        try:
            with urllib.request.urlopen(f"{server.url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    end = server.log.read_text(errors="replace")[-3000:]
    raise RuntimeError(f"vLLM did not come up:\n{end}")


def stop(server: Server) -> None:
    """The server and all that it started, which is a process group of its own."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.process.pid, how)
        except ProcessLookupError:
            break
        try:
            server.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            continue
    server.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("convert", "serve"))
    parser.add_argument("model", nargs="?", choices=tuple(MODELS), default="smollm2")
    what, rest = parser.parse_known_args()
    if what.what == "convert":
        for name in MODELS:
            print(model_folder(name))  # noqa: T201
        return
    folder = model_folder(what.model)
    log = Path(f"vllm-{what.model}.log")
    with vllm_server(folder, log, dtype=quick_dtype(), options=rest) as server:
        print(f"{server.url}/v1   (log: {log})", flush=True)  # noqa: T201
        try:
            server.process.wait()
        except KeyboardInterrupt:
            print("stopping")  # noqa: T201


if __name__ == "__main__":
    main()
