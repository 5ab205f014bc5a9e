"""A port of the cluster's Prometheus, forwarded: network policies let nobody reach it, so its kubelet does.

    python -m tests.cluster.forwarded    (beside the cluster; paths of its API as JSON on standard input)

Prints what the API answers to each, a line each.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

from deploy.cluster.cluster import NAMESPACE, RELEASE


@contextlib.contextmanager
def prometheus() -> Iterator[str]:
    """Where its API is meanwhile."""
    forwarding = subprocess.Popen(
        ["kubectl", "port-forward", f"--namespace={NAMESPACE}", f"deployment/{RELEASE}-prometheus", ":9090"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert forwarding.stdout is not None
        port = forwarding.stdout.readline().split(" -> ")[0].rpartition(":")[2]
        yield f"http://127.0.0.1:{port}/api/v1/"
    finally:
        forwarding.terminate()


def main() -> None:
    with prometheus() as api:
        for path in json.load(sys.stdin):
            print(urllib.request.urlopen(api + path, timeout=10).read().decode())


if __name__ == "__main__":
    main()
