"""The base engine, one for requests that copy from their prompt, and one for each LoRA adapter in use.

OpenVINO GenAI takes adapters when a pipeline is built, not with a request, so each adapter has an
engine of its own: the base's weights (mapped from the same file) with the adapter beside them, and its own KV cache. At most
``max_adapters`` are held; the least recently used one that is idle makes room for the next. Loading
happens in a thread of its own, so requests to the base and to loaded adapters go on meanwhile.

Prompt lookup has an engine of its own, too: OpenVINO GenAI's pipeline for it takes no other requests, checks drafts without
penalties, and writes half as fast where many requests copy nothing.
"""

from __future__ import annotations

import json
import queue
import threading
import traceback
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine import Engine, Generation, Piece, open_engine
from inbox import supervised, work_off


# How long an engine that makes room goes on with its requests: an idle one has none, one whose adapter was replaced may.
RETIRE_SECONDS = 60


class AdapterError(Exception):
    """The adapter cannot be used; the text says why."""


class Engines:
    """``submit`` sends a request to the engine of its adapter; "" is the base."""

    def __init__(self, folder: Path, card: dict[str, Any], adapters: Path) -> None:
        self.folder, self.card, self.adapters = folder, card, adapters
        self.limit: int = card.get("max_adapters", 0)
        self.base = open_engine(folder, card)
        tokens = card.get("prompt_lookup_tokens", 0)
        self.copying = Engine(folder, card, lookup_tokens=tokens) if tokens else None
        self.loaded: OrderedDict[str, tuple[float, Engine]] = OrderedDict()  # name: (its file's time, engine)
        self.on_step: Callable[[], None] = lambda: None
        self._leaving: list[Engine] = []  # finish what they have
        self._retired: Counter[str] = Counter()  # what engines that are gone had counted
        self._lock = threading.Lock()
        for engine in self._held():
            engine.on_step = lambda _: self.on_step()
        self._waiting: queue.Queue[tuple[str, Generation] | None] = queue.Queue(card["max_waiting"])
        self._thread = supervised("adapters", lambda: work_off(self._waiting, self._work))

    def _held(self) -> list[Any]:
        """Every engine there is; the caller holds the lock."""
        copying = [self.copying] if self.copying else []
        return [self.base, *copying, *(engine for _, engine in self.loaded.values()), *self._leaving]

    def _all(self) -> list[Any]:
        with self._lock:
            return self._held()

    @property
    def running(self) -> int:
        return sum(engine.slots for engine in self._all())

    @property
    def waiting(self) -> int:
        return self._waiting.qsize() + sum(engine.waiting for engine in self._all())

    @property
    def cache_usage(self) -> float:
        """Of the fullest KV cache, 0 to 1."""
        return max(engine.cache_usage for engine in self._all())

    @property
    def stepped(self) -> float:
        """When the engine last did something that has been at it for longest, seconds since 1970: of those that have
        work, or of all where none has."""
        engines = self._all()
        return min(engine.stepped for engine in [e for e in engines if not e.idle] or engines)

    @property
    def totals(self) -> Counter[str]:
        """All counters of all engines, also of those that are gone, so that none ever falls."""
        with self._lock:
            return sum((engine.counted for engine in self._held()), self._retired.copy())

    def submit(self, generation: Generation, adapter: str) -> None:
        """Start a request, or tell it why it cannot start."""
        copies = generation.parameters.pop("prompt_lookup", False)
        if not adapter:
            (self.copying if copies and self.copying else self.base).submit(generation)
            return
        try:
            stamp = self._file(adapter).stat().st_mtime
            with self._lock:
                found = self.loaded.get(adapter)
                if found is not None and found[0] == stamp:
                    self.loaded.move_to_end(adapter)
                    found[1].submit(generation)
                    return
            self._waiting.put_nowait((adapter, generation))
        except queue.Full:
            self._refuse(generation, f"{self._waiting.maxsize} requests wait for an adapter already")
        except (AdapterError, OSError) as failure:
            self._refuse(generation, str(failure))

    @staticmethod
    def _refuse(generation: Generation, why: str) -> None:
        generation.tell(Piece("", 0, error=why))

    def _file(self, adapter: str) -> Path:
        file = self.adapters / adapter / "adapter_model.safetensors"
        if not self.limit or "/" in adapter or adapter.startswith(".") or not file.is_file():
            raise AdapterError(f"there is no adapter {adapter!r}")
        facts = json.loads((file.parent / "adapter.json").read_text())
        if facts["base_sha256"] != self.card["source_sha256"]:
            raise AdapterError(f"the adapter {adapter!r} was trained on other weights than these")
        return file

    def _work(self, item: tuple[str, Generation]) -> None:
        adapter, generation = item
        try:
            if generation.is_cancelled():
                generation.tell(Piece("", 0, "cancelled"))
            else:
                self._load(adapter).submit(generation)
        except Exception as failure:  # a bad adapter ends its own requests only
            traceback.print_exc()
            self._refuse(generation, str(failure))

    def _load(self, adapter: str) -> Engine:
        """The engine of an adapter, loaded unless it is there."""
        file = self._file(adapter)
        stamp = file.stat().st_mtime
        with self._lock:
            if (found := self.loaded.get(adapter)) is not None and found[0] == stamp:
                return found[1]
            if found is not None:  # trained anew since; what it runs is finished with the old weights
                self._drop(adapter)
            elif len(self.loaded) >= self.limit:
                idle = [name for name, (_, engine) in self.loaded.items() if engine.idle]
                if not idle:
                    raise AdapterError(f"all {self.limit} adapters that fit into memory are in use")
                self._drop(idle[0])
        engine = Engine(self.folder, self.card, adapter=file)
        engine.on_step = lambda _: self.on_step()
        with self._lock:
            self.loaded[adapter] = (stamp, engine)
        return engine

    def _drop(self, adapter: str) -> None:
        """Send an engine no more requests; it finishes what it has. The caller holds the lock."""
        engine = self.loaded.pop(adapter)[1]
        self._leaving.append(engine)
        threading.Thread(target=self._retire, args=(engine,), name="adapter leaves", daemon=True).start()

    def _retire(self, engine: Engine) -> None:
        """Its counts are moved in one go, so that the totals never fall."""
        engine.drain(RETIRE_SECONDS)
        with self._lock:
            self._leaving.remove(engine)
            self._retired += engine.counted

    def drain(self, seconds: float) -> None:
        """Finish what was submitted, for at most so long."""
        self._waiting.put(None)
        self._thread.join(timeout=seconds)
        for engine in self._all():
            engine.drain(seconds)
