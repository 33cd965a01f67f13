"""The bundle that the report carries is the one its source makes."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

HERE = Path(__file__).parents[3]
BUNDLE = (HERE / "stages" / "report" / "static" / "viewer3d.bundle.js").read_text("utf-8")


def test_the_bundle_was_built_from_the_source_that_is_here() -> None:
    told = re.search(r"from (.*)\nsha256 ([0-9a-f]{64})\n", BUNDLE)
    assert told is not None
    names = told[1].split(", ")
    assert names == ["web/viewer3d.js", "web/build.mjs", "web/package-lock.json"]
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in names))
    assert digest.hexdigest() == told[2], "run: make web"


def test_the_bundle_holds_its_licence_and_may_stand_inside_a_page() -> None:
    lock = json.loads((HERE / "web" / "package-lock.json").read_text())
    version = lock["packages"]["node_modules/three"]["version"]
    assert f"Contains three.js {version}:\nThe MIT License" in BUNDLE
    assert "Permission is hereby granted, free of charge" in BUNDLE
    # Either would end or change the script element around it.
    assert "</script" not in BUNDLE.lower() and "<!--" not in BUNDLE
