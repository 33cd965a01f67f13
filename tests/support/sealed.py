"""Rewrites the metadata of a finished artifact that a test changed on purpose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.artifacts.metadata import (
    CHECKSUM,
    METADATA,
    content_checksum,
    files_of,
    metadata_text,
    read_metadata,
    sha256_of,
)


def seal(folder: Path, **changed: Any) -> None:
    """List the files as they are, with entries ``changed``, as if they had been written so."""
    content = read_metadata(folder)
    assert content is not None
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in files_of(folder)
    }
    content = json.loads(metadata_text({**content, "files": files, **changed}))
    content[CHECKSUM] = content_checksum(content)
    (folder / METADATA).write_text(metadata_text(content))
