"""What the benchmarks need beside the project's own parts: environments, llama.cpp's server, GGUF weights, models."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from deploy.local.processes import ROOT

STATE = ROOT / ".state"
OWN = STATE / "peers"
HERE = Path(__file__).parent
WORKERS = HERE / "workers"
TRITON_PYTHON = STATE / "venv" / "triton" / "bin" / "python"
PEERS_PYTHON = STATE / "venv" / "peers" / "bin" / "python"
INFINITY_PYTHON = STATE / "venv" / "peers-infinity" / "bin" / "python"
# The checkpoint behind the catalogue's generator.
DEFAULT = OWN / "checkpoint-default"
# llama.cpp's source, as the source distribution of its Python bindings carries it.
BINDINGS = "llama-cpp-python==0.3.36"
BINDINGS_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
NEEDED = {"cmake": "cmake", "g++": "g++", "nginx": "nginx-light", "taskset": "util-linux", "setpriv": "util-linux"}


def packages() -> None:
    """Stop with a sentence where a program is missing."""
    missing = sorted({package for program, package in NEEDED.items() if shutil.which(program) is None})
    if missing:
        sys.exit(f"The benchmarks against peers need the Debian packages {', '.join(missing)}.")


def environments() -> None:
    """Make the peers' virtual environments, unless they are there and current."""
    python = Path(sys.base_prefix) / "bin" / "python3.11"
    for name, lock in (("peers", ROOT / "requirements" / "peers.txt"), ("peers-infinity", HERE / "infinity.txt")):
        subprocess.run([ROOT / "scripts" / "environment.sh", python, STATE, name, lock], check=True)


def llama_server() -> Path:
    """llama.cpp's server, built for this processor; about ten minutes of two cores the first time."""
    folder = OWN / "llama.cpp"
    server = folder / "build" / "bin" / "llama-server"
    if server.exists():
        return server
    print("building llama.cpp's server", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    pip = ["-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(folder), BINDINGS]
    subprocess.run([STATE / "venv" / "tools" / "bin" / "python", *pip], check=True)
    archive = next(folder.glob("llama_cpp_python-*.tar.gz"))
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != BINDINGS_SHA256:
        sys.exit(f"{archive} has sha256 {found}, not {BINDINGS_SHA256}.")
    with tarfile.open(archive) as source:
        source.extractall(folder, filter="data")
    root = folder / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"
    # Its AMX kernels end with SIGILL on threads that OpenMP started (a Xeon under Firecracker).
    without = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
    off = ["TESTS", "EXAMPLES", "APP", "UI"]
    flags = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_OPENSSL=OFF",
             "-DLLAMA_USE_PREBUILT_UI=OFF", f"-DCMAKE_C_FLAGS={without}",
             f"-DCMAKE_CXX_FLAGS={without}", *(f"-DLLAMA_BUILD_{part}=OFF" for part in off)]  # fmt: skip
    with (folder / "build.log").open("wb") as log:
        for command in (
            ["cmake", "-S", str(root), "-B", str(folder / "build"), *flags],
            ["cmake", "--build", str(folder / "build"), "--target", "llama-server", "-j", str(os.cpu_count())],
        ):
            subprocess.run(command, check=True, stdout=log, stderr=log)
    return server


def gguf(checkpoint: Path) -> Path:
    """The checkpoint as GGUF in Q8_0, converted anew where the weights or the converter changed."""
    script = WORKERS / "to_gguf.py"
    stamp = hashlib.sha256((checkpoint / "model.safetensors").read_bytes() + script.read_bytes()).hexdigest()[:16]
    out = OWN / "gguf" / f"{stamp}.gguf"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_suffix(".partial")
        subprocess.run([PEERS_PYTHON, script, checkpoint, partial], check=True)
        partial.replace(out)
    return out


def generator(name: str) -> Path:
    """The folder of a checkpoint: ``default``, ``110m`` (made by loadtest/make_checkpoint.py), or a folder's path."""
    if name == "default":
        subprocess.run([TRITON_PYTHON, WORKERS / "checkpoint.py", "generator", DEFAULT], check=True)
        return DEFAULT
    if name != "110m":
        return Path(name).resolve()
    folder = OWN / "checkpoint-110m"
    if not (folder / "model.safetensors").exists():
        subprocess.run([TRITON_PYTHON, ROOT / "loadtest" / "make_checkpoint.py", folder], check=True)
    return folder


def models(checkpoint: Path) -> Path:
    """The model repository with this generator; the built one where it is the default."""
    built = STATE / "models"
    if checkpoint == DEFAULT:
        return built
    into = OWN / "models"
    for name in ("embedder", "reranker", "diffuser", "upscaler"):
        shutil.copytree(built / name, into / name, dirs_exist_ok=True)
    subprocess.run(
        [TRITON_PYTHON.with_name("genmesh-models"), "build", "--into", into, "generator"],
        check=True, env=os.environ | {"GENMESH_GENERATOR_SOURCE": str(checkpoint)},
    )  # fmt: skip
    return into
