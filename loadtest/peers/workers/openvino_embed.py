"""The served embedder's own network and batching on OpenVINO, in this process.

python openvino_embed.py MODEL_FOLDER   (in Triton's environment; MODEL_FOLDER holds model.json)
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from protocol import serve

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "model_repository" / "shared"))
from encoder import open_encoder

model = Path(sys.argv[1])
card = json.loads((model / "model.json").read_text())
encoder = open_encoder(model / card["version"] / "weights", card)


def embed(texts: list[str]) -> list[list[float]]:
    return [row.tolist() for row in encoder.run(encoder.encode(texts))]


def seconds(texts: list[str]) -> float:
    begun = time.monotonic()
    encoder.run(encoder.encode(texts))
    return time.monotonic() - begun


serve({"embed": embed, "seconds": seconds})
