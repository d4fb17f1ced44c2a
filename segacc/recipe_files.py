"""Published settings that are shipped: recipes/NAME.yaml, for `--recipe NAME`."""

from dataclasses import replace
from pathlib import Path

from segacc.errors import OptionError, did_you_mean
from segacc.settings.sources import Layer, read_yaml


def recipe_folder() -> Path:
    """Return the folder of the recipes: inside the package, in a checkout beside it."""
    package = Path(__file__).parent
    shipped = package / "recipes"
    return shipped if shipped.is_dir() else package.parent / "recipes"


def recipe_names() -> list[str]:
    """List the recipes."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))


def read_recipe(name: str) -> Layer:
    """Read a recipe by name, as settings that come from `--recipe NAME`.

    Raises:
        OptionError: there is none of this name.
    """
    names = recipe_names()
    if name not in names:
        raise OptionError(
            f'--recipe: unknown recipe "{name}". {did_you_mean(name, names)}'
            f"Known: {', '.join(names)}. A file of your own goes to --config."
        )
    return replace(read_yaml(recipe_folder() / f"{name}.yaml"), source=f"--recipe {name}")
