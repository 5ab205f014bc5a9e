"""One run of the smoke test (tests/smoke/drive.py), which the tests here judge.

It is repeated once if a timeout expired while the machine had no processor time to give (tests/smoke/repeat.py). What a
run leaves for reading is in .state/smoke: seen/ (what was watched), pods/ and nodes/*/log (logs).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.smoke import drive
from tests.smoke.repeat import Pressure, repeated

RESULTS = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print at once: a run takes minutes."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def tell(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(text, flush=True)

    return tell


@dataclass
class Outcome:
    """What a run saw, or why it did not come to its end."""

    seen: drive.Seen | None = None
    failure: str = ""


@pytest.fixture(scope="session")
def outcome(request: pytest.FixtureRequest, say: Callable[[str], None]) -> Outcome:
    """Of the second run if there were two."""
    results = request.config.stash.setdefault(RESULTS, [])

    def note(result: str) -> None:
        say(result)
        results.append(result)

    def run() -> drive.Seen:
        say("")
        with drive.timed(say) as tell:
            return drive.run(tell)

    with Pressure() as pressure:
        try:
            return Outcome(repeated(run, pressure.now, note))
        except Exception as failure:
            return Outcome(failure=f"{failure}\n\n{traceback.format_exc()}")
        finally:
            if (highest := pressure.highest()) is not None:
                results.append(f"highest CPU pressure: {highest:.0f} % of a minute")


@pytest.fixture
def seen(outcome: Outcome) -> drive.Seen:
    """What the run saw. If it did not come to its end, the first test says why, and the others are skipped."""
    if outcome.seen is None:
        why, outcome.failure = outcome.failure, ""
        if why:
            pytest.fail(why, pytrace=False)
        pytest.skip("the run did not come to its end")
    return outcome.seen


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test waits for the run; the time only ends a hang."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(3600))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for result in config.stash.get(RESULTS, []):
        terminalreporter.write_line(f"smoke test, {result}")
