"""Shared by all commands: the main process, plugin warnings and quiet libraries."""

import os
import sys

from segacc.registry import Registry, load_registry


def is_main() -> bool:
    """Return whether this is the main process, before accelerate is started."""
    return os.environ.get("RANK", "0") == "0"


def load_plugins() -> Registry:
    """Load the registry; the main process prints warnings on broken plugins and name clashes."""
    registry = load_registry()
    if is_main():
        for failure in registry.failures:
            sys.stderr.write(f"warning: {failure.text()}\n")
        for clash in registry.clashes():
            sys.stderr.write(f"warning: {clash}\n")
    return registry


def quiet_libraries() -> None:
    """Turn off progress bars and warnings of libraries, but not their errors."""
    import logging
    import warnings

    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if not (sys.stderr.isatty() and is_main()):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"torch(\.|$)|accelerate(\.|$)|transformers(\.|$)")
