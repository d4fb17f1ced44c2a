"""The built-in plugins: ordinary hook modules, one file per family, listed in BUILT_IN."""

BUILT_IN = (
    "segacc.plugins.augmentations",
    "segacc.plugins.beit",
    "segacc.plugins.datasets",
    "segacc.plugins.dpt",
    "segacc.plugins.eomt",
    "segacc.plugins.linear",
    "segacc.plugins.losses",
    "segacc.plugins.mask2former",
    "segacc.plugins.metrics",
    "segacc.plugins.mobilenet_v2",
    "segacc.plugins.mobilevit",
    "segacc.plugins.mobilevitv2",
    "segacc.plugins.oneformer",
    "segacc.plugins.segformer",
    "segacc.plugins.torchvision_networks",
    "segacc.plugins.upernet",
)
