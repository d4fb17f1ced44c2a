"""The built-in plugins: ordinary hook modules, one file per family, listed in BUILT_IN."""

BUILT_IN = (
    "segacc.plugins.augmentations",
    "segacc.plugins.datasets",
    "segacc.plugins.losses",
    "segacc.plugins.metrics",
    "segacc.plugins.segformer",
)
