"""The commands, one file each; this file is what the installed scripts call.

The commands need typer, rich and av, which every runtime extra brings along and the core does not. Each command is
imported only when it is the one that was called, so `rtmpose models list` does not wait for what `rtmpose track` needs.
"""

from __future__ import annotations

import importlib
import io
import sys

__all__ = ["bench_main", "main"]


def main() -> None:
    """Run `rtmpose`."""
    _run("rtmpose_infer.cli.app", "app")


def bench_main() -> None:
    """Run `rtmpose-bench`."""
    _run("rtmpose_infer.cli.bench", "main")


def _run(module: str, name: str) -> None:
    try:
        function = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        sys.exit(f"The commands need {error.name}: pip install 'rtmpose-infer[cli]' (every runtime extra brings it).")
    _print_whatever_comes()
    function()


def _print_whatever_comes() -> None:
    """Print a name that is no text as its bytes, and ? for what an encoding lacks (Windows', in files and pipes)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        is_utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if is_utf8 else "replace")
