"""What a compilation leaves behind: the build directory and its files."""

from mcompiler.artefacts.directory import (
    Writer,
    check_place,
    clean_leftovers,
    hash_file,
    read_manifest,
    sync_folder,
    verify_hashes,
    whole,
    write_build,
)
from mcompiler.artefacts.layers import LayerData, file_stem, plain_name, program_layers, write_layers
from mcompiler.artefacts.placement import placement_data, placement_faults, plain_attributes
from mcompiler.artefacts.report import report_html
from mcompiler.artefacts.stored import read_layers
from mcompiler.artefacts.timeline import chrome_trace, replayed, schedule_data, stored_stages

__all__ = [
    "LayerData",
    "Writer",
    "check_place",
    "chrome_trace",
    "clean_leftovers",
    "file_stem",
    "hash_file",
    "placement_data",
    "placement_faults",
    "plain_attributes",
    "plain_name",
    "program_layers",
    "read_layers",
    "read_manifest",
    "replayed",
    "report_html",
    "schedule_data",
    "stored_stages",
    "sync_folder",
    "verify_hashes",
    "whole",
    "write_build",
    "write_layers",
]
