"""What the chart prints after an install, followed as it stands."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from deploy.cluster.cluster import RELEASE, Cluster

# The notes may add a name to the machine's hosts; here a copy stands in their place, for these commands alone.
OWN_HOSTS = 'cp /etc/hosts hosts; mount --bind hosts /etc/hosts; sudo() { "$@"; }'


def follow_notes(cluster: Cluster, folder: Path) -> str:
    """Run all of their commands, one after the other, in one shell; what they printed."""
    notes = cluster.helm("get", "notes", RELEASE)
    script = "\n".join(line[2:] for line in notes.splitlines() if line.startswith("  "))
    environment = {name: value for name, value in cluster.environment().items() if not name.startswith("GENMESH_")}
    done = subprocess.run(
        [
            *cluster.outside(), "unshare", "--mount", "bash", "-euc",
            f"{OWN_HOSTS}\ntrap 'kill $(jobs -p)' EXIT\n{script}",
        ],
        env=environment, cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("successfully rolled out") == 8
    assert re.search(r"seven.*\[1\]", done.stdout), done.stdout
    assert "Succeeded" in done.stdout
    return done.stdout
