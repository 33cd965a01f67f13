"""The command that takes an iPhone's frames out of its video, for ``prepare.camera=iphone``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from data.errors import UserError
from pipeline.command import Command, count


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--scene", required=True, type=Path, help="folder of a ScanNet++ scene, with iphone/ in it")
    add("--output", required=True, type=Path, help="where rgb/ and depth/ go: its iphone/, say")
    add("--every", type=count, default=20, help="keep one frame in so many (default: 20)")


def _extract(options: Namespace) -> None:
    from stages.scene import extract_iphone as stage

    scene: Path = options.scene
    if not (scene / "iphone").is_dir():
        raise UserError(f"--scene: {scene} has no folder iphone; give a scene of ScanNet++")
    told = stage.run(scene, options.output, options.every)
    print(f"{options.output}: {told.pictures} pictures, {told.masks} masks, {told.depths} depths")


EXTRACT_IPHONE = Command(
    "take frames out of an iPhone capture of ScanNet++", _add_arguments, _extract
)
