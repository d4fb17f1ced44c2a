"""Guarded loading, for real: pip builds and installs distributions into throw-away folders."""

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plugin_tools import EXAMPLE, pip_install, run_python, run_segacc, write_distribution
from segacc.contracts import Reading
from segacc.errors import PluginError
from segacc.hookspecs import Architecture, Loss, LossOptions, NoOptions
from segacc.registry import BUILT_IN, KINDS, Registry, choose, load_registry

HEAD = """
from dataclasses import dataclass
import segacc

@dataclass(frozen=True)
class Options:
    factor: float = 1.0

def loss(name="strange"):
    return segacc.Loss(name=name, summary="s", options=Options, build=lambda options, facts: None)
"""

GOOD = (
    HEAD
    + """
@segacc.hookimpl
def segacc_losses():
    return [loss("{name}")]
"""
)

# Distribution -> (its module, how the reason it is not loaded for begins or reads).
BROKEN = {
    "segacc-import-error": (
        "import a_module_that_is_not_there\n",
        "ModuleNotFoundError: No module named 'a_module_that_is_not_there'",
    ),
    "segacc-exits": ('raise SystemExit("no licence")\n', "SystemExit: no licence"),
    "segacc-misspelt": (
        HEAD + "@segacc.hookimpl\ndef segacc_architecture():\n    return []\n",
        "PluginValidationError: unknown hook 'segacc_architecture' in plugin ",
    ),
    "segacc-signature": (
        HEAD + "@segacc.hookimpl\ndef segacc_losses(config):\n    return [loss()]\n",
        "PluginValidationError: Plugin 'segacc-signature:main' for hook 'segacc_losses' ",
    ),
    "segacc-generator": (
        HEAD
        + "@segacc.hookimpl\ndef segacc_losses():\n"
        + "    yield loss()\n    raise OSError('no such disk')\n",
        "OSError: no such disk",
    ),
    "segacc-twice": (
        HEAD + "@segacc.hookimpl\ndef segacc_losses():\n    return [loss(), loss()]\n",
        "PluginError: it offers strange twice",
    ),
    "segacc-wrong-type": (
        HEAD + "@segacc.hookimpl\ndef segacc_metrics():\n    return [loss()]\n",
        "PluginError: segacc_metrics returned Loss, expected segacc.Metric",
    ),
    "segacc-not-a-list": (
        HEAD + "@segacc.hookimpl\ndef segacc_losses():\n    return loss()\n",
        "PluginError: segacc_losses returned Loss, expected a list of segacc.Loss",
    ),
    "segacc-forgets": (
        GOOD.format(name="strange") + "\n@segacc.hookimpl\ndef segacc_metrics():\n    [loss()]\n",
        "PluginError: segacc_metrics returned None, expected a list of segacc.Metric",
    ),
    "segacc-thawed": (
        GOOD.format(name="strange").replace("@dataclass(frozen=True)", "@dataclass"),
        "PluginError: segacc_losses: the options of strange must be frozen, as in "
        "@dataclass(frozen=True, kw_only=True)",
    ),
    "segacc-syntax": ("a = 1\nb = = 2\n", "SyntaxError: invalid syntax ("),
    "segacc-bad-name": (
        HEAD + "@segacc.hookimpl\ndef segacc_losses():\n    return [loss('My Loss')]\n",
        "PluginError: segacc_losses: the name 'My Loss' must match [a-z0-9_]+",
    ),
    "segacc-bad-options": (
        HEAD
        + "Options = dict\n@segacc.hookimpl\ndef segacc_losses():\n    return [loss('strange')]\n",
        "PluginError: segacc_losses: the options of strange must be a dataclass",
    ),
    "segacc-nothing": (
        HEAD + "@segacc.hookimpl\ndef segacc_losses():\n    return []\n",
        "PluginError: it offers no component: it needs a function marked @segacc.hookimpl that "
        "returns ",
    ),
    "segacc-no-hook": (
        HEAD + "def losses():\n    return [loss()]\n",
        "PluginError: it offers no component: it needs a function marked @segacc.hookimpl that "
        "returns ",
    ),
    "segacc-unmarked": (
        GOOD.format(name="strange") + "\ndef segacc_metrics():\n    return []\n",
        "PluginError: segacc_metrics is not marked @segacc.hookimpl, so it is never called",
    ),
}


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pip_install(tmp_path_factory.mktemp("example"), EXAMPLE)


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sources = tmp_path_factory.mktemp("sources")
    written = [write_distribution(sources, name, text) for name, (text, _) in BROKEN.items()]
    return pip_install(tmp_path_factory.mktemp("broken"), *written)


@pytest.fixture(scope="session")
def clashing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three with one entry-point name: two offer one loss, the third the name of a built-in."""
    sources = tmp_path_factory.mktemp("sources")
    names = {"segacc-zebra": "hinge", "segacc-apple": "hinge", "segacc-copy": "cross_entropy"}
    written = [
        write_distribution(sources, name, GOOD.format(name=loss), version=f"{number}.0")
        for number, (name, loss) in enumerate(names.items(), 1)
    ]
    return pip_install(tmp_path_factory.mktemp("clashing"), *written)


Load = Callable[..., Registry]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Load a registry with folders on the path, as if what is in them were installed."""
    before = set(sys.modules)

    def do(*targets: Path, only: str | None = None) -> Registry:
        for target in targets:
            monkeypatch.syspath_prepend(target)
        monkeypatch.delenv("SEGACC_LOAD_PLUGINS", raising=False)
        if only is not None:
            monkeypatch.setenv("SEGACC_LOAD_PLUGINS", only)
        return load_registry()

    yield do
    for name in set(sys.modules) - before:
        if name.startswith("segacc_"):
            del sys.modules[name]


def strangers(registry: Registry) -> list[tuple[str, str, str, str]]:
    return [
        (offer.kind, offer.record.name, offer.distribution, offer.version)
        for offer in registry.offers
        if not offer.built_in
    ]


def test_the_built_ins_load_without_a_failure(load: Load) -> None:
    registry = load(only="")
    assert registry.failures == []
    assert strangers(registry) == []
    assert {offer.version for offer in registry.offers} == {"0.1.0"}
    names = "ade20k camvid cityscapes coco coco_stuff cvat folder hub labelme labelstudio mix "
    names += "nuclei shards voc yolo"
    assert [offer.record.name for offer in registry.of_kind("dataset")] == names.split()
    assert {kind for kind in KINDS if registry.of_kind(kind)} == set(KINDS)


def test_an_installed_plugin_adds_all_five_kinds(load: Load, example: Path) -> None:
    registry = load(example, only="segacc-example")
    assert registry.failures == []
    assert strangers(registry) == [
        ("architecture", "unet_small", "segacc-example", "1.2.3"),
        ("dataset", "shapes", "segacc-example", "1.2.3"),
        ("augmentation", "quarter_turn", "segacc-example", "1.2.3"),
        ("loss", "soft_dice", "segacc-example", "1.2.3"),
        ("metric", "pixel_counts", "segacc-example", "1.2.3"),
    ]
    chosen = choose(registry, "loss", "segacc-example/soft_dice:weight=0.5", "--loss")
    assert chosen.record is registry.find("loss", "soft_dice", "--loss")
    assert chosen.options.weight == 0.5
    assert str(chosen.origin) == "plugin segacc-example 1.2.3, loss soft_dice"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_kept_as_a_failure(
    name: str, load: Load, example: Path, broken: Path
) -> None:
    registry = load(example, broken, only=f"segacc-example,{name}")
    assert [(failure.distribution, failure.entry_point) for failure in registry.failures] == [
        (name, "main")
    ]
    [failure] = registry.failures
    assert failure.reason.startswith(BROKEN[name][1])
    assert "\n" not in failure.reason
    file = broken / f"{name.replace('-', '_')}.py"
    lines = {"segacc-import-error": 1, "segacc-exits": 1, "segacc-generator": 14}
    lines["segacc-syntax"] = 2
    assert failure.reason.endswith(f" ({file}:{lines.get(name)})") == (name in lines)
    assert failure.text() == (f"plugin {name} 1.0 (main) was not loaded: {failure.reason}")
    assert len(strangers(registry)) == 5, "the other plugin must not suffer"


def test_all_broken_plugins_together_stop_nothing(load: Load, example: Path, broken: Path) -> None:
    registry = load(example, broken)
    failed = [failure.distribution for failure in registry.failures]
    assert [name for name in failed if name in BROKEN] == sorted(BROKEN)
    assert registry.find("architecture", "unet_small", "--arch").name == "unet_small"


def test_an_unknown_name_tells_what_is_known_and_what_is_broken(load: Load, broken: Path) -> None:
    registry = load(broken, only="segacc-import-error,segacc-twice")
    with pytest.raises(PluginError) as error:
        registry.find("architecture", "segfomer", "--arch")
    known = ", ".join(sorted(offer.record.name for offer in registry.of_kind("architecture")))
    assert "segformer" in known
    assert str(error.value) == (
        f'--arch: unknown architecture "segfomer". Did you mean "segformer"? Known: {known}. '
        "Note: plugin segacc-import-error 1.0 (main) was not loaded: ModuleNotFoundError: "
        f"No module named 'a_module_that_is_not_there' ({broken}/segacc_import_error.py:1). "
        "Note: plugin segacc-twice 1.0 (main) was not loaded: PluginError: it offers strange twice."
    )


def test_a_name_of_another_kind_is_unknown(load: Load) -> None:
    with pytest.raises(PluginError, match=r'^--loss: unknown loss "mean_iou"\. .*cross_entropy'):
        load(only="").find("loss", "mean_iou", "--loss")


def test_distributions_with_one_entry_point_name_all_load_in_order(
    load: Load, clashing: Path
) -> None:
    registry = load(clashing, only="segacc-zebra,segacc-apple,segacc-copy")
    assert registry.failures == []
    assert strangers(registry) == [
        ("loss", "hinge", "segacc-apple", "2.0"),
        ("loss", "cross_entropy", "segacc-copy", "3.0"),
        ("loss", "hinge", "segacc-zebra", "1.0"),
    ]
    full = [offer.full_name for offer in registry.of_kind("loss")]
    assert full[-3:] == ["segacc-copy/cross_entropy", "segacc-apple/hinge", "segacc-zebra/hinge"]
    assert all(name.startswith("segacc/") for name in full[:-3])


def test_a_built_in_keeps_its_plain_name(load: Load, clashing: Path) -> None:
    registry = load(clashing, only="segacc-copy")
    built_in = registry.find("loss", "cross_entropy", "--loss")
    stranger = registry.find("loss", "segacc-copy/cross_entropy", "--loss")
    assert registry.find("loss", "segacc/cross_entropy", "--loss") is built_in
    assert registry.clashes() == [
        'plugin segacc-copy 3.0 offers the loss "cross_entropy", which is the name of a built-in '
        "one; write segacc-copy/cross_entropy for the plugin's."
    ]
    assert (built_in.options.__name__, stranger.options.__name__) == (
        "CrossEntropyOptions",
        "Options",
    )


def test_two_strangers_of_one_name_must_be_written_in_full(load: Load, clashing: Path) -> None:
    registry = load(clashing, only="segacc-zebra,segacc-apple")
    with pytest.raises(PluginError) as error:
        registry.find("loss", "hinge", "--loss")
    assert str(error.value) == (
        '--loss: two plugins offer the loss "hinge"; '
        "write segacc-apple/hinge or segacc-zebra/hinge."
    )
    apple = registry.find("loss", "segacc-apple/hinge", "--loss")
    assert apple is not registry.find("loss", "segacc-zebra/hinge", "--loss")
    # Each of them alone has the plain name.
    assert load(only="segacc-apple").find("loss", "hinge", "--loss").name == "hinge"


def test_two_modules_of_one_distribution_cannot_take_one_name(load: Load, tmp_path: Path) -> None:
    folder = write_distribution(
        tmp_path,
        "segacc-pair",
        GOOD.format(name="hinge"),
        entry_points={"first": "segacc_pair", "second": "segacc_pair_more"},
        more_modules={"segacc_pair_more": GOOD.format(name="hinge")},
    )
    registry = load(pip_install(tmp_path / "target", folder), only="segacc-pair")
    assert registry.find("loss", "hinge", "--loss").name == "hinge"
    assert [failure.text() for failure in registry.failures] == [
        "plugin segacc-pair 1.0 (second) was not loaded: "
        "PluginError: segacc-pair/hinge is offered by another of its entry points"
    ]


def test_the_environment_limits_what_is_loaded(load: Load, clashing: Path, broken: Path) -> None:
    # Names are compared as pip compares them.
    registry = load(clashing, broken, only=" Segacc_Apple , ")
    assert [offer[2] for offer in strangers(registry)] == ["segacc-apple"]
    assert registry.failures == []


def test_a_limit_that_names_nothing_installed_is_told(load: Load) -> None:
    [failure] = load(only="segacc-absent").failures
    assert failure.text() == (
        "plugin segacc-absent (SEGACC_LOAD_PLUGINS) was not loaded: "
        "no distribution of this name offers plugins for segacc"
    )


def test_the_first_of_a_distribution_on_the_path_counts(
    load: Load, tmp_path: Path, clashing: Path
) -> None:
    folder = write_distribution(tmp_path, "segacc-apple", GOOD.format(name="newer"), version="9.0")
    registry = load(clashing, pip_install(tmp_path / "target", folder), only="segacc-apple")
    assert strangers(registry) == [("loss", "newer", "segacc-apple", "9.0")]


@pytest.mark.slow
def test_a_plugin_that_imports_torch_is_told(tmp_path: Path) -> None:
    source = "import torch\n" + GOOD.format(name="hinge")
    site = pip_install(tmp_path / "site", write_distribution(tmp_path, "segacc-slow", source))
    done = run_segacc(["plugins"], target=site, SEGACC_LOAD_PLUGINS="segacc-slow")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(
        r"^plugin segacc-slow 1\.0 \(main\) imports torch, for which every command waits "
        r"\d+\.\d s; import it in `build`$",
        done.stdout,
        re.MULTILINE,
    )


def test_the_records_have_defaults() -> None:
    record = Architecture(name="a", summary="s", build=lambda options, facts: None)
    assert record.tiny() == record.options() == NoOptions()
    assert record.default_weights(record.options()) is None
    sized = Architecture(name="a", summary="s", options=Reading, build=record.build)
    assert sized.tiny() == Reading()
    assert Loss(name="a", summary="s", build=lambda options, facts: None).options is LossOptions


@pytest.mark.parametrize("module", BUILT_IN)
def test_a_hook_called_twice_gives_the_same(module: str) -> None:
    plugin = importlib.import_module(module)
    hooks = [value for name, value in vars(plugin).items() if name.startswith("segacc_")]
    assert hooks
    for hook in hooks:
        first, second = list(hook()), list(hook())
        assert [(r.name, r.summary, r.options) for r in first] == [
            (r.name, r.summary, r.options) for r in second
        ]


def test_loading_imports_no_heavy_package(example: Path) -> None:
    code = """
import json, sys
from segacc.registry import load_registry
registry = load_registry()
heavy = {"torch", "torchvision", "transformers", "accelerate", "datasets", "numpy", "PIL"}
failures = [failure.text() for failure in registry.failures]
print(json.dumps([len(registry.offers), failures, sorted(heavy & set(sys.modules))]))
"""
    done = run_python(["-c", code], target=example, SEGACC_LOAD_PLUGINS="segacc-example")
    assert done.returncode == 0, done.stderr
    count, failures, heavy = json.loads(done.stdout)
    assert count > 5
    assert failures == []
    assert heavy == []
