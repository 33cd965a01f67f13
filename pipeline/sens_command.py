"""``python -m pipeline extract-sens``: frames out of a ScanNet scene's ``.sens``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from pipeline.command import Command, count


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--input", required=True, type=Path, help="a scene's .sens file")
    add("--output", required=True, type=Path, help="folder to write to: the scene's own")
    add("--every", type=count, default=1, metavar="N", help="every Nth frame only; default: 1")


def _extract(options: Namespace) -> None:
    from data.readers.scannet_sens import export_frames

    done = export_frames(options.input, options.output, options.every)
    told = f"{options.output}: {done.written} of {done.total} frames"
    if done.lost:
        told += f", {done.lost} with a lost pose, which readers leave out"
    print(told)


EXTRACT_SENS = Command("write the frames of a ScanNet .sens file", _add_arguments, _extract)
