"""The built-in plugins: ordinary hook modules, one file a family; the registry lists them."""
