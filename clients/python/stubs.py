"""Makes the stubs of ``genmesh.v1`` from the repository's protos: for `make proto` and whenever the package is built.

python clients/python/stubs.py
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROTOS, OUT = HERE.parent.parent / "protos", HERE / "src"
MADE = OUT / "genmesh" / "v1" / "__init__.py"


def make() -> None:
    """Does nothing if there are no protos, but the stubs themselves, as in an sdist."""
    if not (PROTOS / "genmesh" / "v1").is_dir():
        if not MADE.is_file():
            sys.exit(f"There are no stubs in {MADE.parent}, and no protos in {PROTOS} to make them from.")
        return
    from grpc_tools import protoc

    # The plugins that write types are commands beside the interpreter.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    outputs = [f"--{kind}_out={OUT}" for kind in ("python", "grpc_python")]
    outputs += [f"--{kind}_out=quiet:{OUT}" for kind in ("mypy", "mypy_grpc")]
    files = sorted(str(file) for file in PROTOS.glob("genmesh/v1/*.proto"))
    included = Path(protoc.__file__).parent / "_proto"
    if protoc.main(["protoc", f"-I{PROTOS}", f"-I{included}", *outputs, *files]):
        sys.exit("The stubs of clients/python cannot be made from protos/.")
    shutil.copyfile(PROTOS / "service_config.json", OUT / "genmesh" / "service_config.json")
    # Last: it tells that all are made.
    MADE.write_text('"""Stubs of the package genmesh.v1, made by `make proto`."""\n')


if __name__ == "__main__":
    make()
