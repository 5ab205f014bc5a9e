"""Build Triton's models from the catalogue: check the source, quantize, export, verify, put in place.

    python model_repository/build.py --into FOLDER [NAME ...]

Each model becomes ``FOLDER/NAME`` with ``config.pbtxt``, ``model.json`` (what it is and its limits)
and version folder ``1``. A model is built elsewhere and renamed into place when it is whole, so
Triton never sees half of one; one whose inputs did not change is left alone. Needs Triton's
environment (torch, openvino, optimum-intel, nncf).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import verification
import yaml

HERE = Path(__file__).resolve().parent
GENERATORS = {"llama", "qwen2", "qwen3", "mistral", "gpt2"}
ENCODERS = {"bert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta"}
# Their position 0 stands behind the padding token's id, so that they read that many tokens less.
OFFSET_POSITIONS = {"mpnet", "roberta", "xlm-roberta"}
PRECISIONS = {
    "embed": ("int8", "fp16", "fp32"),
    "rerank": ("int8", "fp16", "fp32"),
    "generate": ("int4", "int8", "fp16", "fp32"),
    "diffuse": ("int4", "int8", "fp16", "fp32"),
}
SHARED = {
    "embed": ("encoder.py", "tensors.py"),
    "rerank": ("encoder.py", "tensors.py"),
    "generate": ("engine.py", "tensors.py"),
    "diffuse": ("tensors.py",),
}


class BuildError(Exception):
    """A model cannot be built; the text says why."""


def source_folder(name: str, entry: dict[str, Any]) -> Path:
    """The folder with the full-precision weights."""
    given = os.environ.get(f"GENMESH_{name.upper()}_SOURCE") or entry["source"]
    if given.startswith("package:"):
        package, _, inside = given.removeprefix("package:").partition("/")
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise BuildError(f"{name}: the Python package {package} is not installed")
        folder = Path(spec.origin).parent / inside
    else:
        folder = (HERE / given).resolve()
    if not folder.is_dir():
        raise BuildError(f"{name}: there is no folder {folder}")
    return folder


def digest(paths: list[Path], *parts: str) -> str:
    """SHA-256 over files (names and bytes) and strings."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.name.encode())
        total.update(path.read_bytes())
    for part in parts:
        total.update(part.encode())
    return total.hexdigest()


def files_below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BuildError(f"{path} is missing: is {path.parent} a checkpoint?")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def parameters_of(folder: Path) -> int:
    """The number of parameters in a folder's safetensors files."""
    from safetensors import safe_open

    total = 0
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "np") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - not a dict
                count = 1
                for size in tensors.get_slice(key).get_shape():
                    count *= size
                total += count
    return total


def export(source: Path, out: Path, task: str, precision: str) -> None:
    """Export by optimum's command, which quantizes the weights on the way."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "optimum-cli"), "export", "openvino", "-m", str(source), "--task", task,
         "--weight-format", precision, str(out)],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BuildError(f"export of {source} failed:\n{done.stderr[-2000:]}")


def calibration_texts() -> list[str]:
    """Prose of many lengths for post-training quantization: sentences of the Python manual, 1 to 8 joined."""
    sys.path.insert(0, str(HERE / "starter" / "generator"))
    from data import prose_sentences

    sentences = prose_sentences()
    return [" ".join(sentences[i * 7 % len(sentences) :][: 1 + i % 8]) for i in range(200)]


def pooling_of(source: Path) -> str:
    """How token vectors become a text's, as sentence-transformers wrote it: mean (where nothing is written), cls or last."""
    file = source / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    config = read_json(file)
    chosen = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last"}
    if len(chosen) != 1 or chosen[0] not in known:
        raise BuildError(
            f"{file} asks for {', '.join(chosen) or 'no pooling'}; one of mean, cls and last token is supported"
        )
    return known[chosen[0]]


def build_encoder(source: Path, out: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """An encoder with what its task adds (pooling, unit length, a score's head) as part of the network."""
    import nncf
    import openvino as ov
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    config = read_json(source / "config.json")
    kind = config.get("model_type")
    if kind not in ENCODERS:
        raise BuildError(
            f"{source} holds a checkpoint of type {kind!r}; encoders may be of {', '.join(sorted(ENCODERS))}"
        )
    cross = entry["task"] == "rerank" and config.get("architectures", [""])[0].endswith("ForSequenceClassification")
    pooling = pooling_of(source)

    class Network(torch.nn.Module):
        """Unit vectors of the text or, for late interaction, of each token; a cross-encoder's score, 0 to 1."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = (AutoModelForSequenceClassification if cross else AutoModel).from_pretrained(source)

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
        ) -> torch.Tensor:
            extra = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            found = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **extra)
            if cross:
                return torch.sigmoid(found.logits)
            tokens = found.last_hidden_state
            if entry["task"] == "embed":
                mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
                if pooling == "mean":
                    tokens = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
                elif pooling == "cls":
                    tokens = tokens[:, 0]
                else:
                    last = (attention_mask.sum(1) - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, tokens.shape[-1])
                    tokens = tokens.gather(1, last).squeeze(1)
            return torch.nn.functional.normalize(tokens, dim=-1)

    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(out)
    network = Network().eval()
    if cross and network.encoder.config.num_labels != 1:
        raise BuildError(f"{source} has {network.encoder.config.num_labels} labels; a cross-encoder that ranks has one")
    names = ["input_ids", "attention_mask"]
    if cross and "token_type_ids" in tokenizer.model_input_names:
        names.append("token_type_ids")
    context = min(
        entry["context_tokens"],
        config["max_position_embeddings"] - (config["pad_token_id"] + 1 if kind in OFFSET_POSITIONS else 0),
    )

    def encode(texts: list[str], tensors: str) -> list[dict[str, Any]]:
        """One input of the network a text; for a cross-encoder the texts are paired with one another."""
        pairs = [(text, texts[i - 1]) for i, text in enumerate(texts)] if cross else [(text,) for text in texts]
        found = [tokenizer(*pair, truncation=True, max_length=context, return_tensors=tensors) for pair in pairs]
        return [{name: one[name] for name in names} for one in found]

    example = encode(["an example of two", "texts"], "pt")[0]
    model = ov.convert_model(network, example_input=example)
    model.reshape({key: [-1, -1] for key in names})
    if entry["precision"] == "int8":
        samples = encode(calibration_texts(), "np")
        model = nncf.quantize(
            model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(samples), fast_bias_correction=True,
        )  # fmt: skip
    ov.save_model(model, out / "openvino_model.xml", compress_to_fp16=entry["precision"] != "fp32")
    facts = {"engine": "openvino", "context_tokens": context, "dimension": config.get("hidden_size", config.get("dim"))}
    if entry["task"] == "embed":
        facts["pooling"] = pooling
    else:
        facts["scoring"] = "cross-encoder" if cross else "late-interaction"
    compiled = ov.Core().compile_model(str(out / "openvino_model.xml"), "CPU")
    inputs = encode(verification.held_out_texts(), "pt")
    with torch.no_grad():
        pairs = [(network(**one).numpy()[0], compiled({k: v.numpy() for k, v in one.items()})[0][0]) for one in inputs]
    facts["verification"] = verification.scores(pairs) if cross else verification.vectors(pairs)
    return facts


def build_generator(source: Path, out: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """A decoder for continuous batching, and its tokenizer in the fast format."""
    config = read_json(source / "config.json")
    if config.get("model_type") not in GENERATORS:
        raise BuildError(
            f"{source} holds a checkpoint of type {config.get('model_type')!r}; generators may be of {', '.join(sorted(GENERATORS))}"
        )
    from transformers import AutoTokenizer

    export(source, out, "text-generation-with-past", entry["precision"])
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(out)
    ends = config.get("eos_token_id")
    if (source / "generation_config.json").is_file():
        ends = read_json(source / "generation_config.json").get("eos_token_id", ends)
    end_ids = ends if isinstance(ends, list) else [tokenizer.eos_token_id if ends is None else ends]
    return {
        "engine": "openvino-genai",
        "verification": verification.generator(source, out),
        "context_tokens": int(
            config["n_positions"] if config["model_type"] == "gpt2" else config["max_position_embeddings"]
        ),
        "vocabulary_size": int(config["vocab_size"]),
        "end_token_ids": end_ids,
        "begin_token": tokenizer.bos_token,
        "begin_token_id": tokenizer.bos_token_id,
    }


def build_diffuser(source: Path, out: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """A Stable-Diffusion-shaped pipeline in the diffusers format."""
    index = read_json(source / "model_index.json")
    if index.get("_class_name") != "StableDiffusionPipeline":
        raise BuildError(f"{source} holds a {index.get('_class_name')}; diffusers may be of StableDiffusionPipeline")
    export(source, out, "text-to-image", entry["precision"])
    unet, vae = read_json(source / "unet" / "config.json"), read_json(source / "vae" / "config.json")
    side = int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
    return {"engine": "openvino-genai", "default_width": side, "default_height": side}


BUILDERS = {"embed": build_encoder, "rerank": build_encoder, "generate": build_generator, "diffuse": build_diffuser}


def build(name: str, entry: dict[str, Any], into: Path) -> bool:
    """Build one model unless it is there already; whether there was anything to do."""
    source = source_folder(name, entry)
    task = entry["task"]
    if entry["precision"] not in PRECISIONS[task]:
        raise BuildError(
            f"{name}: precision {entry['precision']!r} is not supported; there is {', '.join(PRECISIONS[task])}"
        )
    weights = files_below(source)
    code = [
        HERE / "build.py",
        HERE / "verification.py",
        *files_below(HERE / name),
        *(HERE / "shared" / f for f in SHARED[task]),
    ]
    key = digest([*weights, *code], json.dumps(entry, sort_keys=True))
    target = into / name
    if (target / "model.json").is_file() and read_json(target / "model.json").get("build_key") == key:
        return False
    if (expected := entry.get("sha256")) and not os.environ.get(f"GENMESH_{name.upper()}_SOURCE"):
        actual = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
        if actual != expected:
            raise BuildError(f"{name}: {source}/model.safetensors has SHA-256 {actual}, not {expected}")
    staging = into.parent / "building" / name
    shutil.rmtree(staging, ignore_errors=True)
    out = staging / "1" / "weights"
    out.mkdir(parents=True)
    facts = BUILDERS[task](source, out, entry)
    facts["verification"] = [
        verification.held(figure, entry.get("verify", {})) for figure in facts.get("verification", [])
    ]
    if failed := [figure for figure in facts["verification"] if not verification.passes(figure)]:
        raise BuildError("; ".join(f"{name}: {verification.sentence(figure)}" for figure in failed))
    for script in (HERE / name / "1" / "model.py", *(HERE / "shared" / f for f in SHARED[task])):
        shutil.copy(script, staging / "1")
    shutil.copy(HERE / name / "config.pbtxt", staging)
    card = {k: v for k, v in entry.items() if k not in ("source", "sha256", "verify")} | facts
    card |= {
        "name": name,
        "version": "1",
        "source": os.environ.get(f"GENMESH_{name.upper()}_SOURCE") or entry["source"],
        "revision": digest(files_below(out))[:12],
        "parameter_count": parameters_of(source),
        "build_key": key,
    }
    (staging / "model.json").write_text(json.dumps(card, indent=2) + "\n")
    old = staging.with_name(f"{name}.old")
    shutil.rmtree(old, ignore_errors=True)
    into.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return True


def main() -> None:
    warnings.filterwarnings("ignore")  # of tracing; they say nothing about the result
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, required=True, help="Triton's model repository, outside this folder")
    parser.add_argument("--catalogue", type=Path, default=HERE / "models.yaml", help="instead of models.yaml here")
    parser.add_argument("names", nargs="*", help="models to build; all where none is named")
    args = parser.parse_args()
    catalogue: dict[str, dict[str, Any]] = yaml.safe_load(args.catalogue.read_text())
    chosen = args.names or list(catalogue)
    if unknown := [name for name in chosen if name not in catalogue]:
        sys.exit(f"{args.catalogue.name} has no model {', '.join(unknown)}; it has {', '.join(catalogue)}")
    for position, name in enumerate(chosen, 1):
        print(f"[{position}/{len(chosen)}] {name} ... ", end="", flush=True)
        begun = time.monotonic()
        try:
            built = build(name, catalogue[name], args.into.resolve())
        except (BuildError, OSError) as failure:
            print("failed")
            sys.exit(f"Cannot build {failure}")
        print(f"built in {time.monotonic() - begun:.0f} s" if built else "up to date", end="", flush=True)
        card = read_json(args.into.resolve() / name / "model.json")
        figures = ", ".join(f"{f['name']} {f['value']:.4f}" for f in card["verification"])
        print(f" ({figures})" if figures else "", flush=True)


if __name__ == "__main__":
    main()
