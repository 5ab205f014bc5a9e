"""python -m services.preflight: whether this image can run the services as they are set. The chart asks before it changes
anything.

PREFLIGHT_SETTINGS holds what an installation sets of each service, as JSON: {"rag": {"GENMESH_CANDIDATES": 8}}. The chart
knows the settings' names (its template checks.yaml); here their values are tried.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys

import services
from services.runtime.settings import faults

VARIABLE = "PREFLIGHT_SETTINGS"


def told(value: object) -> str:
    """A value of the chart's as it stands in a variable."""
    return value if isinstance(value, str) else json.dumps(value)


def main() -> None:
    modules = [found.name for found in pkgutil.walk_packages(services.__path__, "services.")]
    for name in modules:
        # Those run something when they are imported.
        if not name.endswith("__main__"):
            importlib.import_module(name)
    wrong = []
    for service, given in json.loads(os.environ.get(VARIABLE, "{}")).items():
        kind = importlib.import_module(f"services.{service}.settings").Settings
        texts = {name: told(value) for name, value in given.items()}
        os.environ |= texts
        wrong += [f"{service}: {fault}" for name, fault in faults(kind) if name in texts]
        for name in texts:
            del os.environ[name]
    if wrong:
        sys.exit("Bad settings. " + "; ".join(wrong) + ".")
    print(f"{len(modules)} modules of the services can be run.")


if __name__ == "__main__":
    main()
