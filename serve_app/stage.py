"""`python -m serve_app.stage`: publish checkpoints to S3, fetch them to a node, and see what a start took."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from serve_app import cluster_starts, sources
from serve_app.config.sections import CONCURRENCY, MIB_BYTES, RANGE_BYTES, StagingConfig
from serve_app.config.source import Source, SourceKind
from serve_app.harmony import vocabulary_file
from serve_app.harmony.vocabulary_file import VocabularyError
from serve_app.sources import SourceError
from serve_app.staging import files, report
from serve_app.staging.errors import StagingError
from serve_app.staging.objects import S3Location
from serve_app.staging.progress import Progress
from serve_app.staging.publish import publish
from serve_app.staging.store import Store

logger = logging.getLogger("ray.serve")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    # What the package has to say; boto3 tells where it found credentials.
    logger.setLevel(logging.INFO)
    try:
        return int(options.run(options))
    except (StagingError, SourceError) as error:
        print(f"stage: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stage: interrupted; what has arrived is kept, so start again to go on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serve_app.stage", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "publish", help="copy a checkpoint to S3, with checksums", description=_publish.__doc__
    )
    command.add_argument("source", metavar="SOURCE", help="hf:ORG/NAME[@REVISION] or file:FOLDER")
    command.add_argument("location", metavar="s3://BUCKET/PREFIX", type=_location)
    command.add_argument(
        "--replace",
        action="store_true",
        help="also where another version is published; see docs/operations.md",
    )
    command.set_defaults(run=_publish)

    command = commands.add_parser(
        "fetch", help="copy a published checkpoint to this node", description=_fetch.__doc__
    )
    command.add_argument("location", metavar="s3://BUCKET/PREFIX", type=_location)
    command.add_argument(
        "folder",
        metavar="DIR",
        nargs="?",
        default=StagingConfig().folder,
        help="staging folder, as staging.folder in the config (default: %(default)s)",
    )
    command.add_argument("--digest", help="fail unless the version has this digest (its first characters do)")
    command.add_argument("--max-gib", type=float, help="budget of the folder: older versions are evicted")
    command.add_argument(
        "--range-mib", type=int, default=RANGE_BYTES // MIB_BYTES, help="of one GET (default: %(default)s)"
    )
    command.add_argument(
        "--concurrency", type=int, default=CONCURRENCY, help="GETs at a time (default: %(default)s)"
    )
    command.set_defaults(run=_fetch)

    report.add_parser(commands, cluster_starts.of_all_nodes)
    return parser


def _location(text: str) -> S3Location:
    try:
        return S3Location.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _publish(options: argparse.Namespace) -> int:
    """Copies what serving needs of a checkpoint, or of a speculator, to a prefix in S3, the manifest last.
    Prints the version's digest. Started again after an interruption, it sends what is missing.
    """
    try:
        source = Source.parse(options.source)
    except ValueError as error:
        raise SourceError(str(error)) from None
    revision = None
    if source.kind is SourceKind.HUB:
        folder = sources.hub_folder(source.location, source.revision, extra_files=tuple(files.LEGAL))
        # huggingface_hub names the folder of a snapshot by its commit.
        source, revision = replace(source, revision=None), Path(folder).name
    else:
        folder = sources.resolve(source, None, StagingConfig()).path
    try:
        vocabulary_file.from_tokenizer(Path(folder, vocabulary_file.TOKENIZER_FILE))
    except FileNotFoundError:
        pass  # speculators have none
    except VocabularyError as error:
        logger.warning("%s: this is no gpt-oss checkpoint that harmony can be rendered for", error)
    published = publish(
        Path(folder),
        options.location,
        source=str(source),
        revision=revision,
        replace=options.replace,
        show=Progress.shown,
    )
    logger.info(
        "%s is published: %s bytes sent, %s were there",
        options.location.uri(),
        f"{published.sent_bytes:,}",
        f"{published.present_bytes:,}",
    )
    print(published.manifest.digest)
    return 0


def _fetch(options: argparse.Namespace) -> int:
    """Copies a published version to the staging folder DIR, verified, unless it is there already. Prints the
    version's folder. An engine whose config names DIR as staging.folder finds it there.
    """
    store = Store(
        StagingConfig(folder=str(Path(options.folder).expanduser().absolute())).path,
        max_bytes=int(options.max_gib * 1024**3) if options.max_gib else None,
        range_bytes=options.range_mib * MIB_BYTES,
        concurrency=options.concurrency,
    )
    progress = Progress.shown(options.location.uri())
    print(store.stage(options.location, digest=options.digest, progress=progress).path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
