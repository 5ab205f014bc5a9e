"""The stubs have to be there before setuptools looks for packages."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).parent))
import stubs

stubs.make()
setup()
