"""What ColBERT (Khattab & Zaharia 2020) does to tokens, from the files of its own library or of PyLate."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from genmesh_models.errors import BuildError
from genmesh_models.sources import read_json, tokenizer_of

from projection import is_colbert


def markers_of(name: str, source: Path) -> dict[str, Any] | None:
    """The part ``colbert`` of a reranker's card (``shared/ranker.py``); None where the checkpoint is no ColBERT."""
    if is_colbert(source):
        path = source / "artifact.metadata"
        said = read_json(path) if path.is_file() else {}
        query, passage = said.get("query_token_id", "[unused0]"), said.get("doc_token_id", "[unused1]")
        lengths = said.get("query_maxlen", 32), said.get("doc_maxlen", 180)
        attended, skipped = said.get("attend_to_mask_tokens", False), said.get("mask_punctuation", True)
        words, expanded = list(string.punctuation) if skipped else [], True
    else:
        modules = source / "modules.json"
        if not (modules.is_file() and "pylate" in modules.read_text()):
            return None
        said = read_json(source / "config_sentence_transformers.json")
        query, passage = said.get("query_prefix", "[Q] "), said.get("document_prefix", "[D] ")
        lengths = said.get("query_length", 32), said.get("document_length", 180)
        attended = said.get("attend_to_expansion_tokens", False)
        words = said.get("skiplist_words", list(string.punctuation))
        expanded = said.get("do_query_expansion", True)
    tokenizer = tokenizer_of(name, source)

    def token(text: str) -> int:
        found = tokenizer.convert_tokens_to_ids(text)
        if found is None or found == tokenizer.unk_token_id:
            raise BuildError(f"{name}: {source} marks its texts with {text!r}, which its tokenizer does not have")
        return int(found)

    if tokenizer.mask_token_id is None:
        raise BuildError(f"{name}: {source} fills its queries up with a mask token, which its tokenizer does not have")
    ids = {i for word in words for i in tokenizer.encode(word, add_special_tokens=False)[:1]}
    return {
        "query_marker": token(query),
        "passage_marker": token(passage),
        "query_tokens": int(lengths[0]),
        "passage_tokens": int(lengths[1]),
        "filler": tokenizer.mask_token_id if expanded else None,
        "filler_attended": bool(attended),
        "skipped": sorted(ids - {tokenizer.unk_token_id}),
    }
