"""What LoRA adapters cost on a CPU: memory of each engine, and its speed against the base's, in turns.

    .state/venv/triton/bin/python loadtest/adapters.py --base FOLDER [--models .state/models] [--rounds 5]

Makes two untrained adapters of rank 8 (their size and speed are those of trained ones) for the built
generator in a copy of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[1]
PROMPTS, TOKENS = 16, 32


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def make_adapter(base: Path, folder: Path, card: dict[str, object]) -> None:
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=8, lora_alpha=16, target_modules=targets)
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    model.save_pretrained(str(folder))
    (folder / "adapter.json").write_text(json.dumps({"base_sha256": card["source_sha256"]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=ROOT / ".state" / "models")
    parser.add_argument("--base", type=Path, required=True, help="the checkpoint that the generator was built from")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "generator"
        shutil.copytree(args.models / "generator", model)
        card = json.loads((model / "model.json").read_text())
        version = model / card["version"]
        for name in ("one", "two"):
            make_adapter(args.base, model / "adapters" / name, card)
        sys.path.insert(0, str(version))
        from adapters import Engines
        from engine import Generation, Piece

        def ask(engines: Engines, adapters: list[str]) -> float:
            """Tokens a second of PROMPTS requests that take the adapters in turns."""
            done = threading.Semaphore(0)

            def on_piece(_: Generation, piece: Piece) -> None:
                if piece.error:
                    raise SystemExit(piece.error)
                if piece.finish_reason:
                    done.release()

            options = {"max_tokens": TOKENS, "ignore_eos": True}
            begun = time.monotonic()
            for i in range(PROMPTS):
                one = Generation(f"The river {i} is long and", dict(options), on_piece, lambda: False)
                engines.submit(one, adapters[i % len(adapters)])
            for _ in range(PROMPTS):
                done.acquire()
            return PROMPTS * TOKENS / (time.monotonic() - begun)

        before = resident_mib()
        engines = Engines(version / "weights", card | {"prompt_lookup_tokens": 0}, model / "adapters")
        ask(engines, [""])
        memory = [resident_mib() - before]
        for name in ("one", "two"):
            before = resident_mib()
            begun = time.monotonic()
            ask(engines, [name])
            memory.append(resident_mib() - before)
            print(f"adapter {name}: ready and answered after {time.monotonic() - begun:.2f} s", flush=True)
        mixes = {
            "base": [""],
            "one adapter": ["one"],
            "two adapters": ["one", "two"],
            "base and two": ["", "one", "two"],
        }
        rates: dict[str, list[float]] = {name: [] for name in mixes}
        for _ in range(args.rounds):
            for name, mix in mixes.items():
                rates[name].append(ask(engines, mix))
        print(f"memory: base {memory[0]:.0f} MiB, then {memory[1]:.0f} and {memory[2]:.0f} MiB an adapter")
        for name, found in rates.items():
            ratio = statistics.median(a / b for a, b in zip(found, rates["base"], strict=True))
            print(f"{name}: {statistics.median(found):.0f} tokens/s, {ratio:.2f} of the base's")
        engines.drain(0)


if __name__ == "__main__":
    main()
