"""The machine and the versions of what was measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from loadtest.peers import setup

SHOWN = {
    "dev": (Path(sys.executable), ["grpcio", "pymilvus", "milvus-lite", "protobuf"]),
    "triton": (setup.TRITON_PYTHON, ["openvino", "openvino-genai", "nvidia-pytriton"]),
    "peers": (setup.PEERS_PYTHON, ["torch", "transformers", "sentence-transformers", "langchain-core",
                                   "langchain-community", "langchain-milvus", "pymilvus"]),
    "infinity": (setup.INFINITY_PYTHON, ["infinity-emb", "torch", "transformers", "sentence-transformers"]),
}  # fmt: skip
VERSIONS = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"


def _line(path: str, start: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(start):
            return line.split(":", 1)[1].strip()
    return "unknown"


def describe() -> dict[str, str]:
    flags = _line("/proc/cpuinfo", "flags").split()
    telling = [
        flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8") if flag in flags
    ]
    memory = int(_line("/proc/meminfo", "MemTotal").split()[0]) / 2**20
    return {
        "processor": f"{_line('/proc/cpuinfo', 'model name')}, {os.cpu_count()} cores ({', '.join(telling)})",
        "memory": f"{memory:.0f} GiB", "kernel": platform.release(), "python": platform.python_version(),
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Environment -> its packages with versions; programs beside."""
    found = {}
    for name, (python, packages) in SHOWN.items():
        asked = subprocess.run([python, "-c", VERSIONS, *packages], check=True, capture_output=True, text=True)
        found[name] = ", ".join(f"{package} {version}" for package, version in json.loads(asked.stdout).items())
    nginx = subprocess.run(["nginx", "-v"], check=True, capture_output=True, text=True).stderr
    found["programs"] = (
        f"llama-server of {setup.BINDINGS.replace('==', ' ')}'s source, {nginx.strip().rpartition(': ')[2]}"
    )
    return found
