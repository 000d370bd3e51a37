"""load: a build from its directory."""

from __future__ import annotations

from pathlib import Path

from mcompiler.artefacts import MANIFEST, check_types, read_manifest, reading, verify_hashes
from mcompiler.driver.build import Build
from mcompiler.driver.content import Stored
from mcompiler.fates import restored_fate
from mcompiler.geometry import array_shape
from mcompiler.records import BuildOptions, StoredRecord
from mcompiler.target import load_target


def load(directory: str | Path) -> Build:
    """Bring a build back from its directory.

    Raises:
        BuildError: no build there, or one that is damaged; names the file.
    """
    root = Path(directory)
    manifest = read_manifest(root)
    verify_hashes(root, manifest, ["target.toml"])
    target = load_target(root / "target.toml")
    with reading(root / MANIFEST):
        fates = tuple(restored_fate(record) for record in manifest["nodes"])
        options = BuildOptions.from_json(manifest["options"])
        reads = {name: tuple(keys) for name, keys in manifest["reads"].items()}
        check_types(options)
        records = {
            key: StoredRecord(key, each["values"], each["text"]) for key, each in manifest.get("records", {}).items()
        }
        for stored in (*fates, *records.values()):
            check_types(stored)
    return Build(target, Stored(root, manifest, array_shape(target)), fates, options, reads, records=records)
