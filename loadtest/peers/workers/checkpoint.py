"""Write out the full-precision checkpoint that a generator of the catalogue is built from, its adapter merged.

python checkpoint.py NAME FOLDER   (in Triton's environment)
"""

import sys
from pathlib import Path

from genmesh_models import catalogue, sources
from transformers import AutoModelForCausalLM, AutoTokenizer

name, out = sys.argv[1], Path(sys.argv[2])
entry = catalogue.read(catalogue.REPOSITORY / "models.yaml")[name]
base = sources.folder_of(entry)
if sources.merged(entry, base, out) == base:
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(out)
    AutoTokenizer.from_pretrained(base).save_pretrained(out)
