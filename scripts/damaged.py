"""Print the packages of a virtual environment whose files are not those that their RECORD lists. Usage: damaged.py VENV"""

import base64
import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import Distribution, distributions
from pathlib import Path


def damaged(package: Distribution) -> bool:
    """Whether a file is missing or has another checksum (PEP 376: unpadded URL-safe base64 of the SHA-256)."""
    for path in package.files or ():
        if path.hash is None or path.hash.mode != "sha256":
            continue
        try:
            with open(path.locate(), "rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
        except OSError:
            return True
        if base64.urlsafe_b64encode(digest).decode().rstrip("=") != path.hash.value:
            return True
    return False


def main() -> None:
    folders = [str(path) for path in Path(sys.argv[1]).glob("lib/python*/site-packages")]
    packages = list(distributions(path=folders))
    with ThreadPoolExecutor(2) as pool:
        for package, bad in zip(packages, pool.map(damaged, packages), strict=True):
            if bad:
                print(package.metadata["Name"])


main()
