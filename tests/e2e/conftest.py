"""What the end-to-end tests share."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import TRITON_PYTHON


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small checkpoints of many shapes, made once a run; tests leave them as they are."""
    folder = tmp_path_factory.mktemp("checkpoints")
    subprocess.run([str(TRITON_PYTHON), str(Path(__file__).parent / "make_checkpoints.py"), str(folder)], check=True)
    return folder
