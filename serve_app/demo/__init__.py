"""A tiny model of the gpt-oss architecture and its EAGLE3 speculator, for machines and tests without weights.

`python -m serve_app.demo DIR` unfolds the committed weights into ordinary Hugging Face folders. Nothing here
imports ray; vllm is imported by the evaluation alone, torch only where tensors are made.
"""

from pathlib import Path

DATA = Path(__file__).parent / "data"

MODEL_NAME = "gpt-oss-demo"
SPECULATOR_NAME = "gpt-oss-demo-eagle3"
VOCABULARY_NAME = "vocabulary"

CACHE = Path("~/.cache/serve_app/demo").expanduser()
"""Where configs/local.yaml looks for the unfolded folders."""
