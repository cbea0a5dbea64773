"""Which run of a folder is resumed where none is named."""

from pathlib import Path

from tenfold.console import log_info
from tenfold.errors import BusyError, ModelError, StorageError
from tenfold.training.lock import Lock
from tenfold.training.run import Run


def find_unfinished(folder: Path) -> Run:
    """Return the unfinished run below `folder` that was touched last. Raises `ModelError` where there is none."""
    paths = [path.parent for path in folder.glob("[!.]*/recipe.json")]
    for path in sorted(paths, key=_last_touched, reverse=True):
        run = Run(path)
        try:
            Lock(path).check()
            if not run.scored:
                return run
        except (BusyError, ModelError, StorageError) as error:
            log_info(f"passed over: {error}")
    raise ModelError(f"nothing to resume: no unfinished run in {folder}")


def _last_touched(path: Path) -> float:
    return max(entry.stat().st_mtime for entry in (path, *path.glob("checkpoints")))
