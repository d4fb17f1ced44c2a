"""The working folder is not for imports: `python -m segacc` reads data there, and no code.

`python -m` puts it before everything on sys.path, so that a yaml.py or a *.dist-info that happens
to lie there would run. segacc imports this before anything that a file could stand in for.
"""

import os
import sys


def is_main_program() -> bool:
    """Tell whether Python was started with `-m segacc` and is looking for it just now."""
    here = -len(sys.argv)  # argv begins with "-m" for as long as Python looks for the module
    return sys.argv[0] == "-m" and sys.orig_argv[here].removeprefix("-m") == "segacc"


def leave_out_working_folder() -> None:
    """Take back what `-m` put on sys.path, here and in child processes; PYTHONPATH stays.

    A clone that is not installed goes to the end instead, where it stands in for nothing.
    """
    if sys.flags.safe_path or sys.path[0] != os.getcwd():  # noqa: PTH109 - pathlib is not loaded
        return
    folder = sys.path.pop(0)
    if folder == os.path.dirname(os.path.dirname(__file__)):  # noqa: PTH120
        sys.path.append(folder)
    os.environ["PYTHONSAFEPATH"] = "1"


if is_main_program():
    leave_out_working_folder()
