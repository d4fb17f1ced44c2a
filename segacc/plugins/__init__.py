"""The built-in plugins: ordinary hook modules, one file per family, listed in the registry."""
