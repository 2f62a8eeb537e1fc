"""`python -m serve_app.demo DIR`: unfold the demo model, its speculator and the vocabulary into DIR."""

import argparse
from pathlib import Path

from serve_app.demo import CACHE
from serve_app.demo.unfolding import unfold


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m serve_app.demo", description=__doc__)
    parser.add_argument(
        "folder", type=Path, metavar="DIR", nargs="?", default=CACHE, help="default: ~/.cache/serve_app/demo"
    )
    parser.add_argument(
        "--experts",
        choices=("auto", "mxfp4", "bfloat16"),
        default="auto",
        help="mxfp4 is the release's format; vLLM runs experts this narrow in it on CPUs with AMX only, "
        "so elsewhere auto writes the same values as bfloat16",
    )
    arguments = parser.parse_args()
    unfold(arguments.folder, arguments.experts)


if __name__ == "__main__":
    main()
