"""The entry point: the commands, and the exit code of every error."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence

import click

from mcompiler import __version__
from mcompiler.cli.build import compile_command, report, verify
from mcompiler.cli.cells import cells
from mcompiler.cli.compress import compress
from mcompiler.cli.cost import cost
from mcompiler.cli.demo import demo
from mcompiler.cli.netlist import netlist
from mcompiler.cli.ops import ops
from mcompiler.cli.schedule import schedule
from mcompiler.cli.streams import TerminatedError, echo, echo_json, prepare_process, silence
from mcompiler.cli.targets import targets
from mcompiler.errors import UserError

EXIT_USER, EXIT_USAGE, EXIT_FAULT, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 70, 130, 143
NO_MEMORY = "this needs more memory than the machine gives; take a smaller model or fewer samples"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mcompiler")
@click.option("--debug", is_flag=True, help="Print the traceback of an internal error.")
def cli(debug: bool) -> None:
    """Compile trained ONNX models to memristor crossbars, and prove the mapping.

    Start with: mcompiler demo
    """


for command in (compile_command, verify, cost, schedule, report, cells, netlist, compress, targets, ops, demo):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    prepare_process()
    sys.exit(run(given))


def run(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    debug = "--debug" in arguments
    given = [argument for argument in arguments if argument != "--debug"]
    as_json = "--json" in given
    try:
        result = cli.main(args=given, prog_name="mcompiler", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "mcompiler"
        return _fail(f"{error.format_message()} (see: {where} --help)", EXIT_USAGE, as_json)
    except click.ClickException as error:
        return _fail(error.format_message(), EXIT_USER, as_json)
    except UserError as error:
        return _fail(str(error), EXIT_USER, as_json)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", EXIT_INTERRUPTED, as_json)
    except TerminatedError:
        return _fail("terminated", EXIT_TERMINATED, as_json)
    except (
        BrokenPipeError,
        SystemExit,
    ):  # the reader of the output has closed the pipe; click exits where it sees that
        silence(1)
        return 0
    except OSError as error:
        return _fail(_system_message(error), EXIT_USER, as_json)
    except MemoryError:
        return _fail(NO_MEMORY, EXIT_USER, as_json)
    except Exception as error:
        if debug:
            traceback.print_exc()
        text = " ".join(str(error).split())
        return _fail(f"a fault of mcompiler: {type(error).__name__}: {text} (--debug shows where)", EXIT_FAULT, as_json)
    return result if isinstance(result, int) else 0


def _fail(message: str, code: int, as_json: bool) -> int:
    """Print a message as the last lines of stderr, and with --json also as JSON on stdout."""
    try:
        if as_json:
            echo_json(json.dumps({"error": message}, ensure_ascii=False))
        sys.stdout.flush()
    except OSError:  # the message may be about this stream
        silence(sys.stdout.fileno())
    try:
        echo(f"mcompiler: {message}", err=True)
    except OSError:
        silence(sys.stderr.fileno())
    return code


def _system_message(error: OSError) -> str:
    """What the system refused: a file that cannot be read or written, a device that is full."""
    place = f"{error.filename}: " if error.filename is not None else "the output cannot be written: "
    return f"{place}{error.strerror or error}"
