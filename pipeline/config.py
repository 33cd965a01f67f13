"""Experiment configs: layers of YAML and ``--overrides`` over the defaults of ``stages.configs``.

The order is: defaults, the scene set's ``config``, the file of ``--config``, ``--overrides``. Each
layer is validated as soon as it is merged, so that an error names the layer with the mistake.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from data.errors import ConfigError

YAML_SUFFIXES = (".yaml", ".yml")
_OVERRIDES = "--overrides"
Config = TypeVar("Config", bound=BaseModel)
Layer = tuple[str, Mapping[str, Any]]
"""Name of a layer's source, as messages give it, and its content."""


class _Loader(yaml.SafeLoader):
    """Safe YAML loader that reads ``1e-3`` as a number and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML from untrusted text; ConfigError names ``source`` and the line."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from error


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that must hold a mapping; an empty file gives an empty mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a YAML file: {error}") from error
    content = parse_yaml(text, str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of keys, found {type(content).__name__}")
    return content


def packaged(folder: str) -> dict[str, Path]:
    """Names and files of the YAML files in a folder of ``configs``."""
    files = (Path(str(resources.files("configs"))) / folder).glob("*.yaml")
    return {path.stem: path for path in sorted(files)}


def packaged_experiments() -> dict[str, Path]:
    """Names and files of the experiments in ``configs/experiments``."""
    return packaged("experiments")


def config_path(text: str) -> Path:
    """The file that ``--config`` names: a packaged experiment by its name, or a file by its path.

    A text with a slash or the suffix .yaml or .yml is a path. Raises ConfigError for any other
    text that names neither a packaged experiment nor a file.
    """
    path = Path(text).expanduser()
    if text.endswith(YAML_SUFFIXES) or len(path.parts) > 1:
        return path
    known = packaged_experiments()
    if text in known:
        return known[text]
    if path.is_file():
        return path
    raise ConfigError(
        f"--config: no experiment {text!r}. Known experiments: {', '.join(known)}; "
        "name one of these, or give the path of a .yaml file."
    )


def config_layer(text: str) -> Layer:
    """The layer that ``--config`` names; ConfigError as ``config_path``."""
    path = config_path(text)
    return str(path), read_yaml_mapping(path)


def absolute_config(text: str) -> str:
    """``--config`` for a process in another folder: a packaged name unchanged, a path absolute."""
    is_name = text in packaged_experiments() or not text
    return text if is_name else str(config_path(text).absolute())


def parse_overrides(text: str) -> dict[str, Any]:
    """Parse ``student.lr=0.02,fuse.views=all`` to a nested mapping; "" gives an empty mapping."""
    nested: dict[str, Any] = {}
    if not text.strip():
        return nested
    for item in re.split(r",(?=\s*[\w.]+\s*=)", text):
        key, equals, value = item.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(
                f"{_OVERRIDES}: expected key=value,key=value,... "
                f"such as student.lr=0.02, found {item.strip()!r}"
            )
        target = nested
        for part in parts[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise ConfigError(f"{_OVERRIDES}: {key.strip()}: {part} is set twice")
        if parts[-1] in target:
            raise ConfigError(f"{_OVERRIDES}: {key.strip()} is set twice")
        target[parts[-1]] = parse_yaml(value, f"{_OVERRIDES}: {key.strip()}")
    return nested


def merge(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``layer`` over ``base``: mappings merge by key, any other value replaces."""
    merged = dict(base)
    for key, value in layer.items():
        base_value = merged.get(key)
        both_mappings = isinstance(base_value, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(base_value, value) if both_mappings else value  # type: ignore[arg-type]
    return merged


def overrides_with(overrides: str, layer: Mapping[str, Any]) -> str:
    """Merge a layer over ``--overrides``; a text of the same form with sorted keys.

    >>> overrides_with("student.lr=0.02,fuse.views=best", {"fuse": {"views": "all"}})
    'fuse.views="all",student.lr=0.02'
    """
    merged = flat(merge(parse_overrides(overrides), layer))
    return ",".join(
        f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in sorted(merged.items())
    )


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one with dotted keys; an empty mapping counts as a value."""
    flattened: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping) and value:
            flattened |= flat(value, f"{prefix}{name}.")
        else:
            flattened[prefix + name] = value
    return flattened


def valid_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key that a config accepts, sections included."""
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        yield key
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from valid_keys(kind, f"{key}.")


def nearest_key(key: str, model: type[BaseModel]) -> str:
    """The valid dotted key most similar to ``key``, in whole and in its last part."""
    keys = list(valid_keys(model))
    leaf = key.rsplit(".", 1)[-1]

    def likeness(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, key, candidate).ratio()
        last = difflib.SequenceMatcher(None, leaf, candidate.rsplit(".", 1)[-1]).ratio()
        return whole + last

    return max(keys, key=likeness)


def explain(error: ValidationError, source: str, model: type[BaseModel]) -> ConfigError:
    """One ConfigError with a line for each error of pydantic in ``source``."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "(whole file)"
        if item["type"] == "extra_forbidden":
            lines.append(f"{source}: unknown key {key}; did you mean {nearest_key(key, model)}?")
        else:
            lines.append(f"{source}: {key}: {item['msg']}, found {item['input']!r}")
    return ConfigError("\n".join(lines))


def load_layers(model: type[Config], layers: Sequence[Layer]) -> Config:
    """The config from the layers (source name, content) over the model's defaults."""
    content: Mapping[str, Any] = {}
    config = model()
    for source, layer in layers:
        content = merge(content, layer)
        try:
            config = model.model_validate(content)
        except ValidationError as error:
            raise explain(error, source, model) from error
    return config
