"""Recipes: each is as published, is planned as it stands, and takes a step; flags go over it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli_tools import Warm, assert_refused, assert_succeeded, metrics
from launches import ROOT
from segacc.commands import cli
from segacc.registry import load_registry
from segacc.settings.recipes import read_recipe, recipe_folder, recipe_names
from segacc.settings.sources import Layer
from segacc.training.plan import gather, make_plan

pytest_plugins = ["cli_fixtures"]

ADE20K = {"max_steps": 160000, "optimizer": "adamw", "gradient_accumulation_steps": 1}
"""With 16 images a step and photometric distortion, what most of them have in common."""

PUBLISHED: dict[str, dict[str, Any]] = {
    "segformer-ade20k-160k": {
        **{"lr": 6e-5, "head_lr_scale": 10, "weight_decay": 0.01, "warmup_steps": 1500},
        **{"schedule": "poly:power=1.0", "crop_size": (512, 512), "protocol": "mmseg-ade20k"},
    },
    "upernet-swin-t-ade20k-160k": {
        **{"lr": 6e-5, "head_lr_scale": 1, "weight_decay": 0.01, "warmup_steps": 1500},
        **{"schedule": "poly:power=1.0", "crop_size": (512, 512), "protocol": "mmseg-ade20k"},
    },
    "deeplabv3plus-r50-ade20k-80k": {
        **{"lr": 0.01, "head_lr_scale": 1, "weight_decay": 5e-4, "warmup_steps": 0},
        **{"schedule": "poly:power=0.9,floor=0.01", "crop_size": (512, 512)},
        **{"protocol": "mmseg-ade20k", "optimizer": "sgd:momentum=0.9", "max_steps": 80000},
    },
    "beit-b-ade20k-160k": {
        **{"lr": 3e-5, "layer_decay": 0.9, "weight_decay": 0.05, "warmup_steps": 1500},
        **{"schedule": "poly:power=1.0", "crop_size": (640, 640)},
        "protocol": "slide:crop=640,stride=426,short_side=640,long_side=2560,antialias=false",
    },
    "mask2former-swin-t-ade20k-160k": {
        **{"lr": 1e-5, "head_lr_scale": 10, "weight_decay": 0.05, "warmup_steps": 0},
        **{"schedule": "poly:power=0.9", "crop_size": (512, 512), "protocol": "mmseg-ade20k"},
        "max_grad_norm": 0.01,
    },
    "eomt-dinov3-l-ade20k-16ep": {
        **{"lr": 2e-4, "head_lr_scale": 1, "weight_decay": 0.05, "max_steps": 16 * 1263},
        **{"warmup_steps": 2000, "encoder_warmup_steps": 3000, "max_grad_norm": 0.01},
        **{"schedule": "poly:power=0.9", "crop_size": (512, 512)},
        "protocol": "slide:crop=512,stride=512,short_side=512",
    },
    "pmt-dinov3-l-ade20k": {
        **{"lr": 2e-4, "head_lr_scale": 1, "weight_decay": 0.05, "max_steps": 16 * 1263},
        **{"warmup_steps": 6000, "warmup_start": 0, "max_grad_norm": 0.01},
        **{"schedule": "cosine:floor=5.0e-6", "crop_size": (512, 512)},
        "protocol": "slide:crop=512,stride=512,short_side=512",
    },
    "dinov3-l-linear-ade20k-40k": {
        **{"lr": 1e-3, "head_lr_scale": 1, "weight_decay": 1e-3, "max_steps": 40000},
        **{"warmup_steps": 1500, "schedule": "cosine:floor=0", "crop_size": (512, 512)},
        "protocol": "slide:crop=512,stride=341,short_side=512",
    },
}
SCORES = {
    "segformer-ade20k-160k": "37.41",
    "upernet-swin-t-ade20k-160k": "44.41",
    "deeplabv3plus-r50-ade20k-80k": "42.72",
    "beit-b-ade20k-160k": "53.08",
    "mask2former-swin-t-ade20k-160k": "47.7",
    "eomt-dinov3-l-ade20k-16ep": "59.5",
    "pmt-dinov3-l-ade20k": "58.5",
    "dinov3-l-linear-ade20k-40k": "54.9",
}

TINY = {
    "segformer-ade20k-160k": "segformer:variant=tiny",
    "upernet-swin-t-ade20k-160k": "upernet:backbone=swin,size=test,hidden_size=16",
    "deeplabv3plus-r50-ade20k-80k": "deeplabv3plus:backbone=tiny,hidden_size=16",
    "beit-b-ade20k-160k": "upernet:backbone=beit,size=test,hidden_size=16",
    "mask2former-swin-t-ade20k-160k": "mask2former:variant=tiny,num_queries=6,train_num_points=64",
    "eomt-dinov3-l-ade20k-16ep": "eomt_dinov3:variant=tiny,num_queries=6,train_num_points=64",
    "pmt-dinov3-l-ade20k": "pmt:size=test,num_queries=6,train_num_points=64",
    "dinov3-l-linear-ade20k-40k": "linear:backbone=dinov3_vit,size=test,dropout=0.1",
    "tutorial": "segformer:variant=tiny",
}
SMALLER = {
    **{"weights": "none", "crop_size": "64", "batch_size": "2", "num_workers": "0"},
    **{"max_steps": "1", "num_pictures": "0", "output_dir": "run"},
}


def typed(values: dict[str, str]) -> list[str]:
    return [f"--{key.replace('_', '-')}={value}" for key, value in values.items()]


def stored(run: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read config.yaml: values, and where each came from."""
    text = (run / "config.yaml").read_text()
    where = dict(re.findall(r"^(\w+): .* # (.+)$", text, re.MULTILINE))
    return yaml.safe_load(text), where


def test_there_are_these() -> None:
    assert recipe_folder() == ROOT / "recipes"
    assert recipe_names() == sorted([*PUBLISHED, "tutorial"]) == sorted(TINY)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_is_as_published(name: str) -> None:
    plan = make_plan([read_recipe(name)], load_registry())
    config = plan.settings.config
    for key, value in {**ADE20K, **PUBLISHED[name]}.items():
        assert getattr(config, key) == value, key
    assert config.batch_size == 16
    assert plan.dataset.name == "ade20k"
    assert [one.name for one in plan.aug] == [
        *("random_scale_crop", "flip", "photometric_distortion"),
    ]
    assert plan.aug[2].options.exact
    eomt = name.startswith(("eomt", "pmt"))
    if not eomt:
        assert config.warmup_start == (1e-6 if config.warmup_steps else None)
    crop = plan.aug[0].options
    assert (crop.scale_min, crop.scale_max, crop.cat_max_ratio) == (0.5, 2, 1 if eomt else 0.75)
    assert crop.short_side == config.crop_size[0]  # type: ignore[index]
    comment = (recipe_folder() / f"{name}.yaml").read_text().split("\n\n")[0]
    assert f"published mean_iou {SCORES[name]} at one scale" in " ".join(comment.split("\n# "))
    assert f"--recipe {name} " in comment


WINDOWS = {
    "eomt-dinov3-l-ade20k-16ep": ((0, 6520, 9780, 13040), (3000, 9780, 13040, 16300)),
    "pmt-dinov3-l-ade20k": (
        (0, 5384, 7403, 9422, 11442, 13461),
        (3000, 8749, 10769, 12788, 14807, 16826),
    ),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_are_the_steps_of_the_authors(name: str) -> None:
    options = make_plan([read_recipe(name)], load_registry()).arch.options
    found = (options.annealing_start, options.annealing_end)
    for shares, steps in zip(found, WINDOWS[name], strict=True):
        assert [round(share * 16 * 1263) for share in shares] == list(steps)


def test_the_tutorial_is_the_tutorials() -> None:
    plan = make_plan([read_recipe("tutorial")], load_registry())
    config = plan.settings.config
    expected = {
        **{"weights": "nvidia/mit-b0", "train_split": "train[:50]", "val_fraction": 0.2},
        **{"lr": 6e-5, "head_lr_scale": 1, "weight_decay": 0, "warmup_steps": 0, "epochs": 50},
        **{"batch_size": 2, "eval_every": 20, "save_every": 20, "keep": 3, "log_every": 1},
    }
    assert {key: getattr(config, key) for key in expected} == expected
    jitter = plan.aug[1].options
    assert (plan.arch.options.variant, jitter.exact) == ("b0", True)
    assert (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (
        *(0.25, 0.25, 0.25, 0.1),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_recipe_takes_a_step_and_what_is_not_typed_is_its_own(
    warm: Warm, data: Path, tmp_path: Path, name: str
) -> None:
    flags = {**SMALLER, "arch": TINY[name], "dataset": f"folder:root={data}"}
    for key in ("warmup_steps", "encoder_warmup_steps"):
        if read_recipe(name).values.get(key):
            flags[key] = "0"
    if "slide" in str(read_recipe(name).values.get("protocol")) and "dinov3" in name:
        flags["protocol"] = "slide:crop=64,stride=64,short_side=64"
    assert_succeeded(warm("--recipe", name, *typed(flags), cwd=tmp_path))
    (step,) = metrics(tmp_path / "run", "train")
    assert step["loss"] > 0
    (scored,) = metrics(tmp_path / "run", "eval")
    assert 0 <= scored["mean_iou"] <= 1
    values, where = stored(tmp_path / "run")
    for key, value in read_recipe(name).values.items():
        if key not in flags and key != "epochs":  # max_steps has taken its place
            assert values[key] == value, key
            assert where[key] == f"--recipe {name}: {key}"
    assert where["arch"] == "--arch"


def test_flags_go_over_the_file_and_the_file_over_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("lr: 1.0e-3\nbatch_size: 4\nmax_steps: 7\n")
    found: list[Layer] = []

    def keep(layers: list[Layer]) -> int:
        found.extend(layers)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segacc.commands.train.train_command", keep)
        flags = ["--recipe", "tutorial", "--batch-size", "3"]
        cli.run([*flags, "--config", str(tmp_path / "mine.yaml")])
    settings, _ = gather(found)
    config = settings.config
    assert (config.batch_size, config.lr, config.keep) == (3, 1e-3, 3)
    assert (config.max_steps, config.epochs) == (7, None)
    assert settings.where("batch_size") == "--batch-size"
    assert settings.where("lr") == f"{tmp_path / 'mine.yaml'}: lr"
    assert settings.where("keep") == "--recipe tutorial: keep"


def test_an_unknown_recipe_is_refused(warm: Warm, tmp_path: Path) -> None:
    known = ", ".join(sorted(TINY))
    for name, hint in {
        "segformer-ade20k": 'Did you mean "segformer-ade20k-160k"? ',
        "tutorial.yaml": 'Did you mean "tutorial"? ',
        "": "",
    }.items():
        assert_refused(
            warm("--recipe", name, cwd=tmp_path),
            f'--recipe: unknown recipe "{name}". {hint}Known: {known}. Use --config for a file of '
            "your own.",
        )


def test_help_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.run(["--help"])
    told = "".join(capsys.readouterr().out.split())
    assert f"overriddenby--configandflags:{','.join(sorted(TINY))}" in told
