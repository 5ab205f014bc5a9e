"""What a token table costs and gives beside the embedder: `.state/venv/triton/bin/python loadtest/static_table.py`.

The table is the embedder's own word embeddings, built as any other source (docs/models.md has the figures).
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "model_repository"))

import genmesh_models  # noqa: E402, F401 - finds the models' shared code
from encoder import open_encoder  # noqa: E402
from genmesh_models import catalogue, sources  # noqa: E402

CATALOGUE = ROOT / "model_repository" / "models.yaml"
QUERY, ROUNDS = "who lit the lamp of the tower in 1911", 500


def table_of(source: Path, out: Path) -> None:
    """The word embeddings of a BERT-shaped checkpoint, as model2vec keeps a table."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(next(source.rglob("*.safetensors")))
    (name,) = (n for n in tensors if n.endswith("word_embeddings.weight"))
    out.mkdir()
    save_file({"embeddings": tensors[name]}, out / "model.safetensors")
    shutil.copy(next(source.rglob("tokenizer.json")), out)
    (out / "config.json").write_text(json.dumps({"model_type": "model2vec"}))


def show(name: str, model: Path) -> None:
    card = json.loads((model / "model.json").read_text())
    encoder = open_encoder(model / card["version"] / "weights", card)
    taken = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        encoder.run(encoder.encode([QUERY]))
        taken.append(time.perf_counter() - begun)
    ndcg = {f["name"]: f["value"] for f in card["verification"]}["ndcg_at_10"]
    print(f"{name}: {statistics.median(taken) * 1e6:.0f} us a query (median of {ROUNDS}), {card['speed']:,.0f} {card['speed_unit']}, "
          f"nDCG@10 {ndcg:.4f}, {card['memory_bytes'] / 2**20:.0f} MiB")  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        table_of(sources.folder_of(catalogue.read(CATALOGUE)["embedder"]), work / "table")
        entries = yaml.safe_load(CATALOGUE.read_text())
        entries["embedder"]["precision"] = "fp16"
        (work / "models.yaml").write_text(yaml.safe_dump(entries, sort_keys=False))
        command = str(Path(sys.executable).with_name("genmesh-models"))
        subprocess.run(
            [command, "build", "embedder", "--catalogue", str(work / "models.yaml"), "--into", str(work / "models")],
            env=os.environ | {"GENMESH_EMBEDDER_SOURCE": str(work / "table")}, check=True,
        )  # fmt: skip
        show("token table", work / "models" / "embedder")
        show("embedder", ROOT / ".state" / "models" / "embedder")


if __name__ == "__main__":
    main()
