"""The command line: parse arguments, call the API, print the results.

Results go to standard output, all else to standard error. Packages are imported inside the commands, so that
`--help` needs none of them.
"""

import io
import os
import sys

import typer

# each adds its commands to the app, in the order in which the help lists them
from tenfold.cli import data, training, evaluation, audit, serving, scaling, profile, recipe, runs  # noqa: F401  # isort: skip
from tenfold.cli import signals
from tenfold.cli.app import app
from tenfold.console import log_info, show_logs
from tenfold.errors import StorageError, TenfoldError, Terminated, UsageError, is_memory


def _run() -> int:
    """Run the command; return the exit code. All errors meant for users become one line here."""
    try:
        return app(standalone_mode=False, prog_name="tenfold") or 0
    except TenfoldError as error:
        log_info(f"tenfold: {error}")
        return error.exit_code
    except typer.TyperException as error:
        if error.format_message():  # empty where the help was printed instead
            log_info(f"tenfold: {error.format_message()} (tenfold --help)")
        return UsageError.exit_code
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        log_info(f"tenfold: {error.strerror or error}{where}")
        return StorageError.exit_code
    except (MemoryError, RuntimeError) as error:
        if not is_memory(error):
            raise
        log_info("tenfold: out of memory: when training, try a smaller batch_size in a recipe file")
        return StorageError.exit_code
    except Terminated as signalled:
        return signalled.exit_code


def _prepare_streams() -> None:
    """Results in files and pipes are UTF-8, and what a narrower encoding lacks is written as an escape, never lost."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a narrow encoding must not end a run at its table
    asked = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty() and not asked:
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def main() -> None:
    """Entry point of the `tenfold` command."""
    _prepare_streams()
    show_logs()
    signals.handle()
    if os.environ.get("TENFOLD_DEBUG"):
        sys.exit(app(standalone_mode=False, prog_name="tenfold"))
    sys.exit(_run())
