"""Commands extract-iphone and extract-sens: write the frames of packed recordings."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from data.errors import UserError
from pipeline.commands.command import Command, count


def _add_iphone_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--scene", required=True, type=Path, help="folder of a ScanNet++ scene, which holds iphone/"
    )
    add(
        "--output",
        required=True,
        type=Path,
        help="folder for rgb/ and depth/, such as the scene's iphone/",
    )
    add("--every", type=count, default=20, help="keep every Nth frame (default: 20)")


def _extract_iphone(options: Namespace) -> None:
    from stages.scene import extract_iphone as stage

    scene: Path = options.scene
    if not (scene / "iphone").is_dir():
        raise UserError(
            f"--scene: expected a ScanNet++ scene with a folder iphone, found none in {scene}"
        )
    counts = stage.run(scene, options.output, options.every)
    written = f"{counts.pictures} pictures, {counts.masks} masks, {counts.depths} depths"
    print(f"{options.output}: {written}")


EXTRACT_IPHONE = Command(
    "write the frames of a ScanNet++ iPhone capture", _add_iphone_arguments, _extract_iphone
)


def _add_sens_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--input", required=True, type=Path, help="a scene's .sens file")
    add("--output", required=True, type=Path, help="folder to write to, usually the scene's")
    add("--every", type=count, default=1, metavar="N", help="keep every Nth frame (default: 1)")


def _extract_sens(options: Namespace) -> None:
    from data.readers.scannet_sens import export_frames

    counts = export_frames(options.input, options.output, options.every)
    line = f"{options.output}: {counts.written} of {counts.total} frames"
    if counts.lost:
        line += f", {counts.lost} without a pose, which readers leave out"
    print(line)


EXTRACT_SENS = Command(
    "write the frames of a ScanNet .sens file", _add_sens_arguments, _extract_sens
)
