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
from mcompiler.artefacts.layers import LayerData, file_stem, plain_name, program_layers, read_layers, write_layers
from mcompiler.artefacts.placement import placement_data, placement_faults
from mcompiler.artefacts.report import report_html

__all__ = [
    "LayerData",
    "Writer",
    "check_place",
    "clean_leftovers",
    "file_stem",
    "hash_file",
    "placement_data",
    "placement_faults",
    "plain_name",
    "program_layers",
    "read_layers",
    "read_manifest",
    "report_html",
    "sync_folder",
    "verify_hashes",
    "whole",
    "write_build",
    "write_layers",
]
