"""The stubs have to be there before setuptools looks for packages."""

import sys
import tempfile
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).parent))
import stubs

stubs.make()
# Not in build/: all files there, also those of an earlier build, would go into the wheel.
with tempfile.TemporaryDirectory() as folder:
    setup(options={"build": {"build_base": folder}})
