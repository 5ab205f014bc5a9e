"""A generator whose process is killed, and one whose engine ends by itself: callers are told, and it is back unaided."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from genmesh import Client
from genmesh.errors import Internal, Unavailable

from tests.e2e.changing import LONG, Changing
from tests.figures import Figure
from tests.processes import command_lines
from tests.waiting import until

REQUEST = {"prompt": "The river", "sampling": {"max_tokens": LONG - 500, "ignore_eos": True}}
# Added to the engine's module: while a file is there, no step succeeds.
FAULT = """

def _failing(self, _step=Engine._step):
    whole = self.pipeline
    class Pipeline:
        def step(self):
            raise RuntimeError("the machine is on fire")
        def __getattr__(self, name):
            return getattr(whole, name)
    if Path({file!r}).exists():
        self.pipeline = Pipeline()
    try:
        _step(self)
    finally:
        self.pipeline = whole

Engine._step = _failing
"""


@pytest.fixture
def fault(changing: Changing, tmp_path: Path) -> Iterator[Path]:
    """A file that breaks the generator's engine while it exists, from its process's next start on."""
    file = tmp_path / "fault"
    module = changing.models / "generator" / changing.card("generator")["version"] / "engine.py"
    text = module.read_text()
    module.write_text(text + FAULT.format(file=str(file)))
    yield file
    file.unlink(missing_ok=True)
    module.write_text(text)


def kill(changing: Changing) -> None:
    """The generator's process, as the kernel does where memory is short."""
    place = f"{changing.models}/generator/"
    lines = command_lines().items()
    (process,) = (number for number, words in lines if words[0].endswith("stub") and words[1].startswith(place))
    os.kill(process, signal.SIGKILL)


def answers(client: Client) -> bool:
    try:
        short = {"prompt": "The river", "sampling": {"max_tokens": 4}}
        return bool(client.generation.Generate(short, timeout=60).usage.output_tokens)
    except Unavailable:
        return False


def refused(client: Client) -> bool:
    try:
        client.generation.Generate(REQUEST, timeout=60)
    except Unavailable:
        return True
    except Internal:  # it was back already, and breaks anew
        return False
    return False


def test_a_lost_generator_is_told_of_and_comes_back_by_itself(changing: Changing, fault: Path, figure: Figure) -> None:
    with changing.client() as client:
        until(lambda: answers(client))
        stream = iter(client.generation.StreamGenerate(REQUEST))
        next(stream)
        begun = time.monotonic()
        kill(changing)
        with pytest.raises(Unavailable) as broken:
            list(stream)
        assert broken.value.reason == "MODEL_UNAVAILABLE"
        figure("a stream whose generator was killed is told so after", time.monotonic() - begun, "s")
        until(lambda: answers(client), 300)
        figure("a killed generator is back after", time.monotonic() - begun, "s")

        fault.touch()
        with pytest.raises(Internal, match="engine step: the machine is on fire"):
            client.generation.Generate(REQUEST, timeout=60)

        def told() -> bool:
            """Why, while it is away; and whoever calls then is refused."""
            reason = client.models.GetModel({"name": "generator"}).model.not_ready_reason
            return "the machine is on fire" in reason and refused(client)

        until(told, 300)
        fault.unlink()
        until(lambda: answers(client), 300)
        assert client.models.GetModel({"name": "generator"}).model.ready
