"""Run as a script: save a build in child processes, each killed at another touch of the file system.

    python killed.py MODEL.onnx FOLDER new|force

Prints a JSON object: how many touches a save makes, and what stood in FOLDER after each kill and after the next run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import mcompiler
from mcompiler.artefacts import clean_leftovers, read_manifest, verify_hashes
from mcompiler.driver import Build

EVENTS = {"open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "os.link", "shutil.rmtree"}


def kill_at(touch: int, folder: Path) -> None:
    """From now on, the ``touch``-th operation on files of the folder's neighbourhood is this process's last."""
    seen = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and arguments and str(folder.parent) in os.fsdecode(str(arguments[0])):
            seen[0] += 1
            if seen[0] == touch:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def stands(out: Path) -> str:
    """Which build stands there: its seed, "none", or what is wrong with it."""
    if not out.exists():
        return "none"
    try:
        manifest = read_manifest(out)
        verify_hashes(out, manifest)
        files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} - {"manifest.json"}
        if files != set(manifest["files"]):
            return f"files differ: {sorted(files ^ set(manifest['files']))}"
        return f"seed {manifest['options']['seed']}"
    except Exception as error:
        return f"damaged: {error}"


def one(build: Build, out: Path, force: bool, touch: int) -> bool:
    """Save in a child that dies at a touch; whether it did."""
    child = os.fork()
    if child == 0:
        try:
            kill_at(touch, out)
            build.save(out, force=force)
            os._exit(0)
        except BaseException:
            os._exit(9)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, "the child failed instead of being killed"
        return False
    assert os.WTERMSIG(status) == signal.SIGKILL
    return True


def main(model: Path, folder: Path, force: bool) -> None:
    out = folder / "a.build"
    old, new = (mcompiler.compile(model, "generic_128", calibration="random", seed=seed) for seed in (1, 2))
    new.report()  # everything that is made on demand is made once, here
    shelf = old.save(folder.parent / "shelf" / "a.build")
    found = []
    touch = 0
    while True:
        touch += 1
        for path in folder.iterdir():
            shutil.rmtree(path)
        if force:
            shutil.copytree(shelf, out)
        if not one(new, out, force, touch):
            break
        after = stands(out)
        said: list[str] = []
        clean_leftovers(out, said.append)
        found.append({
            "after": after, "said": said, "then": stands(out),
            "left": sorted(path.name for path in folder.iterdir() if path != out),
        })  # fmt: skip
    print(json.dumps({"touches": touch - 1, "found": found, "end": stands(out)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "force")
