"""Recipes: published settings in YAML files, by name."""

from dataclasses import replace
from pathlib import Path

from segacc.errors import OptionError, unknown
from segacc.settings.sources import Layer, read_yaml


def recipe_folder() -> Path:
    """Return the folder of the recipes: in the package, or next to it in a checkout."""
    package = Path(__file__).parent.parent
    shipped = package / "recipes"
    return shipped if shipped.is_dir() else package.parent / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the recipes."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))


def read_recipe(name: str, where: str = "--recipe") -> Layer:
    """Read the settings of a recipe, with `--recipe NAME` as their source.

    Args:
        name: the name of the recipe.
        where: how it was given.

    Raises:
        OptionError: the name is unknown.
    """
    names = recipe_names()
    if name not in names:
        own = " Use --config for a file of your own." if where == "--recipe" else ""
        raise OptionError(f"{where}: {unknown('recipe', str(name), names)}.{own}")
    return replace(read_yaml(recipe_folder() / f"{name}.yaml"), source=f"{where} {name}")
