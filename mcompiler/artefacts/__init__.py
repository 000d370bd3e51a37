"""The build directory and its files."""

from mcompiler.artefacts.directory import (
    MANIFEST,
    Writer,
    atomic_write,
    check_place,
    clean_leftovers,
    hash_file,
    parts_of,
    read_manifest,
    reading,
    sync_folder,
    verify_hashes,
    write_build,
)
from mcompiler.artefacts.forms import check_types
from mcompiler.artefacts.layers import LayerData, file_stem, layer_files, plain_name, program_layers, write_layers
from mcompiler.artefacts.placement import placement_data, placement_faults, plain_attributes
from mcompiler.artefacts.report import report_html
from mcompiler.artefacts.stored import read_layers
from mcompiler.artefacts.timeline import ScheduleRecord, Timeline, replayed, stored_stages, timeline_of

__all__ = [
    "MANIFEST",
    "LayerData",
    "ScheduleRecord",
    "Timeline",
    "Writer",
    "atomic_write",
    "check_place",
    "check_types",
    "clean_leftovers",
    "file_stem",
    "hash_file",
    "layer_files",
    "parts_of",
    "placement_data",
    "placement_faults",
    "plain_attributes",
    "plain_name",
    "program_layers",
    "read_layers",
    "read_manifest",
    "reading",
    "replayed",
    "report_html",
    "stored_stages",
    "sync_folder",
    "timeline_of",
    "verify_hashes",
    "write_build",
    "write_layers",
]
