"""The file in which measured forms are remembered: JSON, in the user's cache directory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from ..compiler.save import write_file
from ..passes.errors import Error, InputError

FOLDER_VARIABLE = "ONNXGRAD_CACHE_DIR"
"""The environment variable that names another folder than the user's cache directory."""

_FORMAT = 1


class TuningCache:
    """What was measured, by a key: the time of each form.

    The file is read when something is looked up first, and written anew (whole or not at all) with each measurement.
    Of two processes that write at the same moment, the later may drop what the earlier measured last; then that is
    measured once more.

    Args:
        folder: where the file `tuning.json` lies; the environment variable ONNXGRAD_CACHE_DIR, or else the user's
            cache directory, if None. It is made when something is looked up first.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        chosen = folder or os.environ.get(FOLDER_VARIABLE) or platformdirs.user_cache_path("onnxgrad")
        self.path = Path(chosen) / "tuning.json"
        self._known: dict[str, dict[str, float]] | None = None

    def get(self, key: Mapping[str, object]) -> dict[str, float] | None:
        """Seconds by form, None if nothing was measured.

        Raises InputError if the file is not one of ours, and Error if the folder cannot be made.
        """
        if self._known is None:
            self._known = self._read()
        return self._known.get(_as_text(key))

    def put(self, key: Mapping[str, object], seconds: Mapping[str, float]) -> None:
        """Remember seconds by form, beside what other processes have written meanwhile."""
        self._known = (self._known or {}) | self._read() | {_as_text(key): dict(seconds)}
        measured = [{"what": json.loads(text), "seconds": seconds} for text, seconds in self._known.items()]
        write_file(self.path, json.dumps({"format": _FORMAT, "measured": measured}, indent=1).encode())

    def _make_folder(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Error(
                f"{self.path.parent} cannot be made: {error.strerror or error}. "
                f"Name another folder for what is measured in the environment variable {FOLDER_VARIABLE}"
            ) from error

    def _read(self) -> dict[str, dict[str, float]]:
        self._make_folder()
        try:
            content = json.loads(self.path.read_bytes())
            if content["format"] != _FORMAT:
                return {}  # of another version of onnxgrad
            return {
                _as_text(entry["what"]): {str(form): float(time) for form, time in entry["seconds"].items()}
                for entry in content["measured"]
            }
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise Error(f"{self.path} cannot be read: {error.strerror or error}") from error
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise InputError(
                f"{self.path} does not hold what was measured ({type(error).__name__}: {error}). Delete it: what it "
                "held is measured anew"
            ) from error


def _as_text(key: Mapping[str, object]) -> str:
    return json.dumps(key, sort_keys=True)
