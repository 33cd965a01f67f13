"""Scene sets: which scans, splits and queries a run is about, from ``configs/scene_sets``."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.errors import ConfigError
from data.splits import SPLITS, Split
from pipeline.config import explain, read_yaml_mapping


class SplitFiles(BaseModel):
    """One name or path per split; "" where a set has no tuning split."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    train: str
    val: str
    tune: str = ""

    def named(self) -> dict[Split, str]:
        """The splits there are, and their names."""
        return {split: name for split in SPLITS if (name := getattr(self, split))}


class SceneSet(BaseModel):
    """What a file in ``configs/scene_sets`` says."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    name: str
    reader: Literal["scannetpp"] = "scannetpp"
    generated: bool = False
    """The rooms are made by the GenerateRooms stage instead of lying in ``data_root``."""
    version: Literal["", "v1", "v2"] = ""
    """Version of the dataset: ScanNet++'s annotate the same scenes differently, and no file says
    which it is of. What is made for one is never used for another."""
    data_root: str = ""
    """Folder of the dataset; environment variables are filled in."""
    splits: SplitFiles
    """Names of the split lists."""
    queries: SplitFiles
    """Query files, relative to the dataset's folder unless absolute."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Defaults of this set, laid over the built-in ones."""
    source: str = ""

    def expanded(self, text: str) -> Path:
        """``text`` with environment variables filled in; ConfigError for an unset one."""
        path = os.path.expandvars(os.path.expanduser(text))
        if "$" in path:
            variable = path[path.index("$") :].split("/")[0].strip("${}")
            raise ConfigError(
                f"{self.source}: {text} needs the environment variable {variable}; "
                f"set it to the folder that holds your datasets (export {variable}=...)"
            )
        return Path(path)

    def root(self) -> Path:
        """The dataset's folder of a set that is not generated; ConfigError when missing."""
        root = self.expanded(self.data_root)
        if not root.is_dir():
            raise ConfigError(
                f"{root}: expected the folder of the dataset (data_root in {self.source}), "
                "found no such folder. Put the dataset there or change data_root."
            )
        return root

    def query_path(self, root: Path, split: Split) -> Path:
        """Where the queries of a split lie."""
        return root / self.expanded(self.queries.named()[split])

    def query_records(self, root: Path) -> dict[Split, Any]:
        """The query files as parsed; what cannot be read stands as its error's name.

        A plan never fails on a broken file: the stage that reads it does, and says why.
        """
        records: dict[Split, Any] = {}
        for split in self.queries.named():
            try:
                records[split] = json.loads(self.query_path(root, split).read_bytes())
            except (OSError, ValueError) as error:
                records[split] = type(error).__name__
        return records


def packaged_sets() -> dict[str, Path]:
    """Names and files of the scene sets that come with the project."""
    folder = Path(str(resources.files("configs"))) / "scene_sets"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_scene_set(name: str) -> SceneSet:
    """A packaged set by name, or any ``.yaml`` file by path; ConfigError when neither."""
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_path else packaged_sets().get(name)
    if path is None or not path.is_file():
        known = ", ".join(packaged_sets())
        raise ConfigError(
            f"--scene-set: no scene set {name!r}. Known sets: {known}; "
            "a set of your own is given as the path of its .yaml file."
        )
    content = read_yaml_mapping(path)
    try:
        scene_set = SceneSet.model_validate({**content, "name": path.stem, "source": str(path)})
    except ValidationError as error:
        raise explain(error, str(path), SceneSet) from error
    splits, queries = (", ".join(files.named()) for files in (scene_set.splits, scene_set.queries))
    if splits != queries:
        raise ConfigError(
            f"{path}: splits names {splits}, but queries names {queries}. Give each split both "
            "a list of scenes and a query file."
        )
    if not scene_set.generated and not scene_set.data_root:
        raise ConfigError(f"{path}: data_root is missing: the folder that holds the dataset")
    if scene_set.generated and scene_set.version:
        raise ConfigError(f"{path}: version is for a dataset in data_root, not for generated rooms")
    return scene_set
