"""extract-iphone and extract-sens: frames out of packed recordings."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from data.errors import UserError
from pipeline.commands.command import Command, count


def _add_iphone_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--scene", required=True, type=Path, help="folder of a ScanNet++ scene, with iphone/ in it")
    add("--output", required=True, type=Path, help="where rgb/ and depth/ go: its iphone/, say")
    add("--every", type=count, default=20, help="keep one frame in so many (default: 20)")


def _extract_iphone(options: Namespace) -> None:
    from stages.scene import extract_iphone as stage

    scene: Path = options.scene
    if not (scene / "iphone").is_dir():
        raise UserError(f"--scene: {scene} has no folder iphone; give a scene of ScanNet++")
    told = stage.run(scene, options.output, options.every)
    print(f"{options.output}: {told.pictures} pictures, {told.masks} masks, {told.depths} depths")


EXTRACT_IPHONE = Command(
    "take frames out of an iPhone capture of ScanNet++", _add_iphone_arguments, _extract_iphone
)


def _add_sens_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--input", required=True, type=Path, help="a scene's .sens file")
    add("--output", required=True, type=Path, help="folder to write to: the scene's own")
    add("--every", type=count, default=1, metavar="N", help="every Nth frame only; default: 1")


def _extract_sens(options: Namespace) -> None:
    from data.readers.scannet_sens import export_frames

    done = export_frames(options.input, options.output, options.every)
    told = f"{options.output}: {done.written} of {done.total} frames"
    if done.lost:
        told += f", {done.lost} with a lost pose, which readers leave out"
    print(told)


EXTRACT_SENS = Command(
    "write the frames of a ScanNet .sens file", _add_sens_arguments, _extract_sens
)
