"""Ready rows of augmentations for `--augment`, each written as `--aug` takes them."""

from collections.abc import Mapping

AUGMENT: Mapping[str, tuple[str, ...]] = {
    "light": ("random_scale_crop", "flip"),
    "standard": ("random_scale_crop", "flip", "color_jitter"),
    "strong": (
        "random_scale_crop",
        "flip",
        "class_mix:p=0.5",
        "random_erasing:p=0.25,area_max=0.1",
        "gaussian_blur:p=0.2,sigma_max=1.5",
        "photometric_distortion",
    ),
}
"""By name, as TrainConfig.augment lists them. The crop comes first, so that all that follows works
on as few pixels as training sees, and those that mix samples are given crops of one size."""
