"""Run tritonserver from the ``nvidia-pytriton`` wheel over a built model repository.

    python model_repository/serve.py --models FOLDER --cache FOLDER --grpc-port 8001 ...

Only the wheel's binary, Python backend and stub are used. They are linked into ``--cache`` the way
the server expects them, never into site-packages. The process becomes the server (``exec``).
"""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

# Triton exports over HTTP, the services over gRPC, so its address has a variable of its own.
TRACE_URL = "TRITON_OTLP_HTTP_URL"


def backends(cache: Path, server: Path) -> Path:
    """A backend folder with the Python backend and the stub of this Python."""
    folder = cache / "backends" / "python"
    folder.mkdir(parents=True, exist_ok=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    for file in (*(server / "backends" / "python").iterdir(), stub):
        link = folder / file.name
        if link.is_symlink() or link.exists():
            if link.resolve() == file.resolve():
                continue
            link.unlink()
        link.symlink_to(file)
    return folder.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--metrics-port", type=int, default=8002)
    parser.add_argument(
        "--trace-url",
        default=os.environ.get(TRACE_URL, ""),
        help=f"OTLP/HTTP address for Triton's own spans; {TRACE_URL}",
    )
    parser.add_argument("--trace-config", action="append", default=[], help="as tritonserver's own; the chart's way")
    parser.add_argument("--exit-timeout-secs", type=int, default=20, help="how long requests in flight may go on")
    args = parser.parse_args()
    models, cache = args.models.resolve(), args.cache.resolve()
    spec = find_spec("pytriton")
    if spec is None or spec.origin is None:
        sys.exit("The Python package nvidia-pytriton is not installed; it brings tritonserver.")
    package = Path(spec.origin).parent
    server = package / "tritonserver"
    libraries = [package.parent / "nvidia_pytriton.libs", Path(sysconfig.get_config_var("LIBDIR"))]
    path = os.environ.get("LD_LIBRARY_PATH")
    environment = os.environ | {
        "LD_LIBRARY_PATH": os.pathsep.join([*map(str, libraries), *([path] if path else [])]),
        # The stub takes its packages from the first python3 on PATH.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    binary = server / "bin" / "tritonserver"
    command = [
        str(binary),
        f"--model-repository={models}",
        # A new version takes over when `genmesh-models` says so, not when its files appear.
        "--model-control-mode=explicit", "--load-model=*",
        f"--backend-directory={backends(cache, server)}",
        f"--grpc-address={args.host}", f"--grpc-port={args.grpc_port}",
        f"--http-address={args.host}", f"--http-port={args.http_port}",
        f"--metrics-address={args.host}", f"--metrics-port={args.metrics_port}",
        "--allow-gpu-metrics=false", "--metrics-interval-ms=1000",
        f"--exit-timeout-secs={args.exit_timeout_secs}", "--disable-auto-complete-config",
        # Services look each few seconds whether a connection still lives.
        "--grpc-http2-min-recv-ping-interval-without-data=5000", "--grpc-keepalive-permit-without-calls=1",
        # One after the other: each compiles on all cores, and Triton gives up (and may crash with) a model whose process does
        # not run for a second while it loads.
        "--model-load-thread-count=1",
        # A stub's shared memory starts small and grows; three models share /dev/shm.
        "--backend-config=python,shm-default-byte-size=8388608",
    ]  # fmt: skip
    settings = args.trace_config
    if args.trace_url:
        settings = ["mode=opentelemetry", f"opentelemetry,url={args.trace_url}",
                    "opentelemetry,resource=service.name=genmesh-triton", "level=TIMESTAMPS", "rate=1"]  # fmt: skip
    command += [f"--trace-config={setting}" for setting in settings]
    os.chdir(models)  # relative paths inside models are meant from here
    os.execve(binary, command, environment)


if __name__ == "__main__":
    main()
