"""What `kubectl get --watch` saw of pods and of a service's endpoints: every change, in the order of the changes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


def objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects that stand one after the other in a text; the last one may still be being written."""
    decoder, at = json.JSONDecoder(), 0
    while (at := text.find("{", at)) >= 0:
        try:
            found, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            return
        yield found


@dataclass(frozen=True)
class Pod:
    """A pod after one change."""

    uid: str
    name: str
    component: str
    address: str
    ready: bool
    ending: bool  # it was told to end
    gone: bool
    revision: int  # of the cluster's state; changes of pods and endpoints are counted together


def pod(found: dict[str, Any], gone: bool = False) -> Pod:
    metadata, status = found["metadata"], found["status"]
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions", ())}
    return Pod(
        uid=metadata["uid"],
        name=metadata["name"],
        component=metadata["labels"]["app.kubernetes.io/component"],
        address=status.get("podIP", ""),
        ready=conditions.get("Ready") == "True",
        ending="deletionTimestamp" in metadata,
        gone=gone,
        revision=int(metadata["resourceVersion"]),
    )


def changes(text: str) -> list[Pod]:
    """The changes of pods in what kubectl printed."""
    return [pod(event["object"], event["type"] == "DELETED") for event in objects(text)]


def gone(pods: Iterable[Pod]) -> set[str]:
    """The uids of pods that ended."""
    return {pod.uid for pod in pods if pod.gone}


def ready(pods: Iterable[Pod], old: set[str]) -> list[Counter[str]]:
    """How many pods of each component are ready after each change, once all old ones were listed.

    As a disruption budget counts: a pod that was told to end is none.
    """
    now: dict[str, Pod] = {}
    listed: set[str] = set()
    samples = []
    for changed in pods:
        listed.add(changed.uid)
        now[changed.uid] = changed
        if listed >= old:
            samples.append(Counter(p.component for p in now.values() if p.ready and not (p.ending or p.gone)))
    return samples


def too_early(pods: Iterable[Pod], old: set[str]) -> list[str]:
    """Old pods that were told to end before any new one of their component had been ready."""
    had_ready: set[str] = set()
    told: set[str] = set()
    found = []
    for changed in pods:
        if changed.uid not in old:
            had_ready |= {changed.component} if changed.ready else set()
        elif changed.ending and changed.uid not in told:
            told.add(changed.uid)
            if changed.component not in had_ready:
                found.append(changed.name)
    return found


def left(text: str, address: str) -> int | None:
    """The revision at which a service's endpoints first had a pod's address no more, or as one that ends; None: never."""
    slices: dict[str, bool] = {}  # whether it has the address
    had = False
    for event in objects(text):
        found = event["object"]
        taking = [
            endpoint
            for endpoint in found.get("endpoints") or ()
            if address in endpoint["addresses"] and not endpoint.get("conditions", {}).get("terminating")
        ]
        slices[found["metadata"]["name"]] = bool(taking) and event["type"] != "DELETED"
        if any(slices.values()):
            had = True
        elif had:
            return int(found["metadata"]["resourceVersion"])
    return None
