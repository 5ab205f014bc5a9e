"""The scenarios of ``scenarios.yaml``: which operations, when they arrive, for how long. Validated whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

FOLDER = Path(__file__).parent
SCENARIOS = FOLDER / "scenarios.yaml"
OPERATIONS = (
    "tokenize", "embed", "embed_bulk", "rerank", "search", "upsert", "generate", "chat", "rag", "retrieve", "ingest",
    "image", "upscale", "models",
)  # fmt: skip
Rate = Annotated[float, Field(gt=0, le=1_000_000)]  # arrivals a second
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Span = tuple[Annotated[int, Field(ge=1, le=10_000)], Annotated[int, Field(ge=1, le=10_000)]]  # least and most


M = TypeVar("M", bound=BaseModel)


class ScenarioError(Exception):
    """A scenario, trace or SLO that cannot be used; the text is one sentence for the person at the terminal."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Size(Strict):
    """How large the requests of an operation are; what an operation has no use for is passed over."""

    words: Span = Field(default=(20, 60), description="Words of a prompt or text.")
    max_tokens: Span = Field(
        default=(16, 48), description="Tokens to generate; all of them, the end of text is ignored."
    )
    texts: int = Field(
        default=32, ge=1, le=1_000, description="Texts of a bulk, passages to rerank, entities to upsert."
    )
    steps: int = Field(default=8, ge=1, le=200, description="Steps of an image.")

    @model_validator(mode="after")
    def _ordered(self) -> Size:
        for name in ("words", "max_tokens"):
            least, most = getattr(self, name)
            if least > most:
                raise ValueError(f"{name} is [{least}, {most}]; the least comes first")
        return self


class Part(Size):
    """An operation's part of a mix."""

    weight: int = Field(default=1, ge=1, le=1_000, description="Its share of the arrivals, relative to the others'.")
    deadline_seconds: Seconds = Field(default=30, description="The call's deadline, counted from when it is sent.")


class Closed(Strict):
    """Users that each wait for an answer before they ask again."""

    kind: Literal["closed"]
    users: int = Field(ge=1, le=100_000)
    calls_per_second: Rate | None = Field(
        default=None, description="The pace of each user; a call is measured from when the pace meant it to start."
    )


class Constant(Strict):
    """Arrivals at equal distances."""

    kind: Literal["constant"]
    rate: Rate

    @property
    def mean(self) -> float:
        return self.rate

    def scaled(self, factor: float) -> Constant:
        return Constant(kind="constant", rate=self.rate * factor)


class Poisson(Strict):
    """Arrivals that know nothing of one another: exponential gaps."""

    kind: Literal["poisson"]
    rate: Rate

    @property
    def mean(self) -> float:
        return self.rate

    def scaled(self, factor: float) -> Poisson:
        return Poisson(kind="poisson", rate=self.rate * factor)


class Ramp(Strict):
    """Poisson arrivals whose rate goes evenly from one value to another."""

    kind: Literal["ramp"]
    start_rate: float = Field(ge=0, le=1_000_000)
    end_rate: float = Field(ge=0, le=1_000_000)

    @model_validator(mode="after")
    def _some(self) -> Ramp:
        if self.peak == 0:
            raise ValueError("start_rate and end_rate are both 0; one must be more")
        return self

    @property
    def peak(self) -> float:
        return max(self.start_rate, self.end_rate)

    @property
    def mean(self) -> float:
        return (self.start_rate + self.end_rate) / 2

    def scaled(self, factor: float) -> Ramp:
        return Ramp(kind="ramp", start_rate=self.start_rate * factor, end_rate=self.end_rate * factor)


class Burst(Strict):
    """Poisson arrivals at ``rate``, and at ``burst_rate`` in the first ``burst_seconds`` of each ``every_seconds``."""

    kind: Literal["burst"]
    rate: float = Field(ge=0, le=1_000_000)
    burst_rate: Rate
    burst_seconds: Seconds
    every_seconds: Seconds

    @model_validator(mode="after")
    def _shorter(self) -> Burst:
        if self.burst_seconds > self.every_seconds:
            raise ValueError(
                f"burst_seconds is {self.burst_seconds:g}, more than every_seconds, {self.every_seconds:g}"
            )
        return self

    @property
    def peak(self) -> float:
        return max(self.rate, self.burst_rate)

    @property
    def mean(self) -> float:
        part = self.burst_seconds / self.every_seconds
        return self.burst_rate * part + self.rate * (1 - part)

    def scaled(self, factor: float) -> Burst:
        return self.model_copy(update={"rate": self.rate * factor, "burst_rate": self.burst_rate * factor})


class Replay(Strict):
    """The arrivals of a trace file; ``speed`` 2 plays it twice as fast."""

    kind: Literal["replay"]
    path: Path
    speed: float = Field(default=1, gt=0, le=10_000)

    def scaled(self, factor: float) -> Replay:
        return self.model_copy(update={"speed": self.speed * factor})


Process = Constant | Poisson | Ramp | Burst | Replay


class Scenario(Strict):
    """One named load."""

    about: str = Field(min_length=1, description="What it stands for, in a sentence.")
    mix: dict[Literal[OPERATIONS], Part] = Field(min_length=1)  # type: ignore[valid-type]
    arrivals: Closed | Process = Field(discriminator="kind")
    duration_seconds: Seconds = 30
    seed: int = Field(default=1, ge=0, description="Of the arrivals, the mix and the sizes.")
    max_in_flight: int = Field(
        default=512,
        ge=1,
        le=100_000,
        description="Open calls of all workers; an arrival beyond them is dropped and counted.",
    )

    @property
    def is_open(self) -> bool:
        return not isinstance(self.arrivals, Closed)

    @property
    def longest_deadline(self) -> float:
        return max(part.deadline_seconds for part in self.mix.values())


def load(path: Path = SCENARIOS) -> dict[str, Scenario]:
    """All scenarios of a file, by name."""
    entries = read_mapping(path)
    return {name: parse(Scenario, _located(entry, path), f"{path.name}: {name}") for name, entry in entries.items()}


def pick(name: str, path: Path = SCENARIOS) -> Scenario:
    """One scenario by name."""
    found = load(path)
    if name not in found:
        what = f"There is no scenario {name}" if name else "A scenario is needed"
        raise ScenarioError(f"{what}; {path.name} has {', '.join(sorted(found))}.")
    return found[name]


def _located(entry: Any, path: Path) -> Any:
    """A trace's path as it stands in the file is relative to that file."""
    arrivals = entry.get("arrivals") if isinstance(entry, dict) else None
    if isinstance(arrivals, dict) and isinstance(arrivals.get("path"), str):
        return entry | {"arrivals": arrivals | {"path": path.parent / arrivals["path"]}}
    return entry


# Reading


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that is a mapping."""
    try:
        found = yaml.safe_load(path.read_text())
    except OSError as failure:
        raise ScenarioError(f"{path} cannot be read: {failure.strerror}.") from None
    except yaml.YAMLError as failure:
        raise ScenarioError(f"{path} is no YAML: {' '.join(str(failure).split())}.") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ScenarioError(f"{path} is not a mapping by name.")
    return found


def parse(kind: type[M], entry: Any, where: str) -> M:
    """An entry as a model; what is wrong becomes one sentence that names the first field at fault."""
    try:
        return kind.model_validate(entry)
    except ValidationError as failure:
        first = failure.errors()[0]
        # A union's tag stands in the place of a field that nobody wrote.
        tags = {"closed", "constant", "poisson", "ramp", "burst", "replay", "[key]"}
        field = ".".join(str(part) for part in first["loc"] if part not in tags)
        text = first["msg"].removeprefix("Value error, ")
        given = "" if isinstance(first["input"], dict | None) else f" (it is {first['input']!r})"
        raise ScenarioError(f"{where}: {field + ': ' if field else ''}{text}{given}.") from None
