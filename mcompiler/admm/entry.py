"""The entry function of a user, ``package.module:function``, which gives the command line model and data."""

from __future__ import annotations

import difflib
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mcompiler.admm.loop import Batches, Loss
from mcompiler.errors import DataError


@dataclass(frozen=True)
class Task:
    """Model and data of a compression, as an entry function returns them.

    Attributes:
        model: trained dense model.
        train: (x, y) batches that can be iterated again each epoch, or a function from the epoch to its batches.
        test: batches for top-1 accuracy, or None.
        loss: of (output, y); None: cross entropy.
        example: an input; None: from the first batch.
    """

    model: nn.Module
    train: Batches
    test: Batches | None = None
    loss: Loss | None = None
    example: Any = None


def load_task(entry: str) -> Task:
    """Import ``package.module:function`` (or ``folder/file.py:function``), call it, and return its task.

    Raises:
        DataError: an entry that does not exist, fails, or returns an object of another type.
    """
    where, colon, name = entry.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise DataError(f"'{entry}': write package.module:function or file.py:function")
    module = _import_module(where, entry)
    function = getattr(module, name, None)
    if not callable(function):
        close = difflib.get_close_matches(name, [key for key in vars(module) if callable(getattr(module, key))], 1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise DataError(f"'{entry}': {where} has no function '{name}'{hint}")
    try:
        task = function()
    except (Exception, SystemExit) as error:
        raise DataError(f"'{entry}' failed: {type(error).__name__}: {error}") from error
    if not isinstance(task, Task):
        raise DataError(f"'{entry}' returned a {type(task).__name__}; return mcompiler.admm.Task(model=..., train=...)")
    if not isinstance(task.model, nn.Module):
        raise DataError(f"'{entry}': its model is a {type(task.model).__name__}; give a torch.nn.Module")
    return task


def _import_module(where: str, entry: str) -> Any:
    """The module of an entry: the name of an importable one, or the path of a file."""
    path = Path(where)
    if path.suffix == ".py":
        if not path.is_file():
            raise DataError(f"'{entry}': no such file: {path}")
        sys.path.insert(0, str(path.resolve().parent))
        where = path.stem
    elif str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise DataError(f"'{entry}': cannot import {where}: {error}; is it in this folder, or installed?") from error
    except (Exception, SystemExit) as error:
        raise DataError(f"'{entry}': importing {where} failed: {type(error).__name__}: {error}") from error
    found = getattr(module, "__file__", None)
    if path.suffix == ".py" and (found is None or Path(found).resolve() != path.resolve()):
        raise DataError(f"'{entry}': another module is called {where} ({found or 'built in'}); rename {path}")
    return module
