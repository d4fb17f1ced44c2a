"""The model card: what it tells, that its code runs, and that nothing in it is read as markup."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from cli_tools import TINY, Warm, assert_succeeded, write_data
from segacc.evaluation.model_folder import side_file
from segacc.evaluation.scores import Terms
from segacc.evaluation.segmenter import Segmenter
from segacc.hookspecs import Chosen
from segacc.model.hub import Source
from segacc.registry import choose, load_registry
from segacc.settings.secrets import without_secrets
from segacc.training.saving.card import shown
from segacc.training.saving.license import Base, License, find_base, read_license
from segacc.training.saving.markdown import escaped, fenced, table
from segacc.training.saving.scores import Scored, dataset_title, refreshed

pytest_plugins = ["cli_fixtures"]

TERMS = Terms(protocol="whole", num_images=39)
NASTY = "<script>alert(1)</script>|`x`\n**bold** [a](http://b) _c_ \x1b[31m\u202e &amp; $x$"


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def html_of(text: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(text)


def code_of(card: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real picture: the first microscope image of the bundled data set."""
    [one, *_] = choose(load_registry(), "dataset", "nuclei", "test").build().splits["validation"]
    path = tmp_path_factory.mktemp("pictures") / "photo.png"
    path.write_bytes(one.image)
    return path


def test_what_the_card_of_a_run_tells(trained: Path, data: Path) -> None:
    text, side = card_of(trained / "best"), side_file(trained / "best")
    card = ModelCard(text)
    assert (card.data.library_name, card.data.pipeline_tag) == (
        "transformers",
        "image-segmentation",
    )
    assert card.data.license is None and card.data.base_model is None
    scores = {one.metric_type: one for one in card.data.eval_results or []}
    assert set(scores) == {"mean_iou", "mean_accuracy", "overall_accuracy", "val_loss"}
    mean_iou = scores["mean_iou"]
    assert mean_iou.metric_value == pytest.approx(side["scores"]["mean_iou"], abs=1e-6)
    assert (mean_iou.dataset_name, mean_iou.dataset_split) == ("folder:root=shapes", "validation")
    assert mean_iou.metric_args["protocol"] == "whole" and mean_iou.metric_args["num_images"] == 3
    for told in (
        "Assigns one of 3 classes to each pixel of an image: background, disc, bar.",
        "![Validation images, their labels and predictions](example.png)",
        f"Scored at step {side['step']} on the split validation of folder:root=shapes: 3 images, ",
        f"| mean_iou | {side['scores']['mean_iou']:.4f} |",
        "Trained from random weights",
        "| loss | cross_entropy |",
        "| learning rate | 0.03, head x 1 |",
        "| schedule | poly, warm-up 2 steps |",
        "| total batch size | 4 (4 per process, 1 process, 1 accumulation step) |",
        f"| steps | {side['step']} of 40 ({side['step']}.0 epochs) |",
        "| crop | 48 x 64 pixels |",
        "| augmentation | flip |",
        "| precision | float32 |",
        "| EMA | none |",
        " on 1 x cpu, evaluations included.",
        "Versions: segacc 0.1.0, torch ",
    ):
        assert told in text, told
    for name, value in side["scores"]["per_category_iou"].items():
        assert re.search(rf"^\| {name} \| {value:.4f} \| ", text, re.MULTILINE)
    step = side["step"]
    assert (trained / "best/example.png").read_bytes() == (
        (trained / f"pictures/step-{step:08d}.png").read_bytes()
    )


def test_the_code_of_the_card_runs(
    warm: Warm, trained: Path, picture: Path, tmp_path: Path
) -> None:
    shutil.copy(picture, tmp_path / "photo.jpg")
    pipeline, segmenter = (
        code.replace("USER/NAME", str(trained / "best"))
        for code in code_of(card_of(trained / "best"))
    )
    told = '    found["mask"].save(found["label"] + ".png")\n'
    keep = 'import numpy\nnumpy.save("classes.npy", prediction)\n'
    assert_succeeded(warm.code(pipeline + told, cwd=tmp_path))
    assert_succeeded(warm.code(segmenter + keep, cwd=tmp_path))
    from PIL import Image

    classes = np.load(tmp_path / "classes.npy")
    own = Segmenter.from_pretrained(trained, "cpu")
    np.testing.assert_array_equal(classes, own(picture))
    for k in np.unique(classes):
        mask = np.asarray(Image.open(tmp_path / f"{own.labels.names[k]}.png"))
        np.testing.assert_array_equal(mask > 0, classes == k)


@pytest.mark.slow
def test_the_card_of_a_network_that_transformers_lacks(
    warm: Warm, data: Path, picture: Path, tmp_path: Path
) -> None:
    flags = [one for one in TINY if one != "segformer:variant=tiny"]
    flags[flags.index("--arch") : flags.index("--arch") + 1] = ["--arch", "lraspp:backbone=tiny"]
    given = ("--dataset", f"folder:root={data}", "--output-dir", "run")
    assert_succeeded(warm(*flags, *given, cwd=tmp_path))
    text = card_of(tmp_path / "run/best")
    assert ModelCard(text).data.library_name == "segacc"
    assert "transformers lacks this network" in text and "example.png" not in text
    assert not (tmp_path / "run/best/example.png").exists()
    [code] = code_of(text)
    shutil.copy(picture, tmp_path / "photo.jpg")
    code = code.replace("USER/NAME", "run/best") + "print(prediction.shape)\n"
    assert_succeeded(warm.code(code, cwd=tmp_path))


# ------------------------------------------------------------------------------------------ scores


def scored(names: list[str], absent: int = 0, **more: Any) -> Scored:
    values = {name: math.nan if k < absent else 0.5 for k, name in enumerate(names)}
    scores = {"mean_iou": 0.5, "other": math.nan, "per_category_iou": values}
    return Scored(scores=scores, terms=TERMS, dataset="mine", split="validation", step=7, **more)


def test_absent_classes_have_no_row_and_many_are_folded() -> None:
    few = scored([f"class {k}" for k in range(30)], absent=2).section()
    assert "nan" not in few and "| class 1 |" not in few and "| class 2 | 0.5000 |" in few
    assert "2 classes of 30 without a score (in neither labels nor predictions)." in few
    assert "<details>" not in few
    many = scored([f"class {k}" for k in range(150)], absent=60).section()
    assert "<details>\n<summary>Scores of 90 classes</summary>\n\n| class |" in many
    assert "60 classes of 150 without a score" in many
    assert [one.metric_type for one in scored(["a"]).results()] == ["mean_iou"]


def test_an_evaluation_replaces_the_scores_alone() -> None:
    before = scored(["a", "b"])
    front = "---\nlicense: mit\nmodel-index:\n- name: x\n  results: []\n---\n"
    card = f"{front}\n# x\n\n{before.section()}## Use\n\nMine.\n"
    intervals = {"level": 0.95, "what": "how", "mean_iou": [0.1, 0.9]}
    intervals |= {"per_category_iou": {"a": [0.2, 0.3], "b": None}}
    after = replace(before, scores={**before.scores, "mean_iou": 0.75}, intervals=intervals)
    changed = refreshed(card, after)
    assert "| mean_iou | 0.7500 | 0.1000 to 0.9000 |" in changed
    assert "| a | 0.5000 | 0.2000 to 0.3000 |" in changed and "| b | 0.5000 |  |" in changed
    [result] = ModelCard(changed).data.eval_results or []
    assert result.metric_value == 0.75 and result.metric_args["interval_95"] == [0.1, 0.9]
    assert changed.count("## Scores") == 1 and changed.endswith("## Use\n\nMine.\n")
    assert refreshed("# A card of another hand\n", after) == "# A card of another hand\n"


# -------------------------------------------------------------------------------------------- text


def test_nothing_of_a_user_is_markup() -> None:
    page = html_of(f"# {escaped(NASTY)}\n\n{table(['a'], [[NASTY], ['x']])}\n\n{escaped(NASTY)}")
    for tag in ("script", "strong", "em>", "code", "<a ", "\x1b", "\u202e"):
        assert tag not in page.replace("&lt;script&gt;", "").replace("&lt;/script&gt;", "")
    assert page.count("<tr>") == 3
    plain = NASTY.replace("\n", r"\n").replace("\x1b", r"\x1b").replace("\u202e", r"\u202e")
    cell = re.findall("<td>(.*?)</td>", page)[0]
    entities = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&amp;": "&"}
    for entity, character in entities.items():
        cell = cell.replace(entity, character)
    assert cell == plain
    block = html_of(fenced("a\n```\n<b>\x07", "sh"))
    assert block.count("<pre>") == 1 and "&lt;b&gt;\\x07" in block


ADDRESSES = {
    "https://ann:s3cret@host/a.tar": "https://***@host/a.tar",
    "s3://b/a?X-Amz-Signature=0a&X-Amz-Date=7": "s3://b/a?X-Amz-Signature=***&X-Amz-Date=7",
    "'https://h/a?sv=1&sig=ab%2F1' --lr 1": "'https://h/a?sv=1&sig=***' --lr 1",
    "https://h/a?token=abc,names=b": "https://h/a?token=***,names=b",
    "--x hf_abcdefghijklmnopqrstuvwx": "--x ***",
    "https://h/a?design=1&page=2 a@b.c": "https://h/a?design=1&page=2 a@b.c",
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_secrets_of_addresses_are_hidden(text: str) -> None:
    assert without_secrets(text) == ADDRESSES[text]


def test_folders_are_not_in_the_name_of_a_data_set() -> None:
    given = "folder:root=/home/ann/my data/mine,names=~/a/b.txt,split=a/b"
    assert dataset_title(given) == "folder:root=mine,names=b.txt,split=a/b"
    assert dataset_title("shards:train=https://u:p@h/a.tar") == "shards:train=https://***@h/a.tar"


def test_the_command_is_shown_as_it_is_typed() -> None:
    for start in ("/a/bin/python /a/bin/segacc", "python3.11 -u -m segacc", "/x/python -m segacc"):
        assert shown(f"{start} train --lr 1") == "segacc train --lr 1"
    assert shown("/x/python own.py") == "/x/python own.py"
    assert shown(f"segacc train --dataset {Path.home()}/a") == "segacc train --dataset ~/a"


RUN = """
import sys

sys.argv[1:] = {arguments!r}
sys.orig_argv = ["/usr/bin/python3", "-m", "segacc", *sys.argv[1:]]
from segacc.__main__ import main

sys.exit(main())
"""


def test_strange_names_and_secrets_of_a_run(warm: Warm, tmp_path: Path) -> None:
    root = write_data(tmp_path / "a|b<i>`c`", names=["<b>|x`", "**disc**", "b_a_r"])
    config, secret = tmp_path / "a?X-Amz-Signature=5ecre7", b"5ecre7"
    config.write_text("num_pictures: 0\n")  # only a name, but one as that of remote data
    given = ["--dataset", f"folder:root='{root}'", "--output-dir", "run", "--config", str(config)]
    arguments = ["train", *TINY, *given, "--trackers", "tensorboard"]
    assert_succeeded(warm.code(RUN.format(arguments=arguments), cwd=tmp_path))
    run = tmp_path / "run"
    inside = [path for path in run.rglob("*") if path.is_file()]
    assert not [path.name for path in inside if secret in path.read_bytes()]
    command = json.loads((run / "environment.json").read_text())[0]["command"]
    assert command.startswith("/usr/bin/python3 -m segacc train --arch")
    assert "/a?X-Amz-Signature=***' --trackers tensorboard" in command
    text = card_of(run / "best")
    assert "```sh\nsegacc train --arch segformer:variant=tiny --weights none " in text
    assert "/a?X-Amz-Signature=***' --trackers" in text
    page = html_of(text.split("---\n", 2)[2])
    assert "<b>" not in page and "<i>" not in page and "<strong>" not in page
    assert "&lt;b&gt;|x`, **disc**, b_a_r." in page


# ---------------------------------------------------------------------------------------- licences


@pytest.fixture
def arch() -> Chosen:
    return choose(load_registry(), "architecture", "segformer:variant=tiny", "test")


def folder_with(folder: Path, front: str, **side: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "segformer"}')
    (folder / "README.md").write_text(f"---\n{front}\n---\n# A model\n")
    if side:
        (folder / "segacc.json").write_text(json.dumps(side))
    return folder


def test_the_licence_of_weights_and_of_what_is_trained_from_them(
    arch: Chosen, tmp_path: Path
) -> None:
    def base(folder: Path, given: str = "") -> Base:
        found = find_base(Source(str(folder), given or str(folder)), given or str(folder), arch)
        assert found
        return found

    cached = folder_with(
        tmp_path / "models--nvidia--segformer-b0-x/snapshots/0123", "license: other"
    )
    nvidia = base(cached)
    assert (nvidia.name, nvidia.on_hub) == ("nvidia/segformer-b0-x", True)
    assert nvidia.license and nvidia.license.noncommercial
    assert nvidia.warning() == (
        "warning: the licence of the weights nvidia/segformer-b0-x forbids commercial use (NVIDIA "
        "Source Code License for SegFormer (non-commercial), "
        "https://github.com/NVlabs/SegFormer/blob/master/LICENSE), and it also covers models "
        "trained from them. --weights none starts from random weights; docs/architectures.md lists "
        "other weights and their licences."
    )
    mine = folder_with(tmp_path / "mine", "license: mit", base_model=nvidia.to_dict())
    assert base(mine) == nvidia
    free = base(folder_with(tmp_path / "free", "license: apache-2.0"))
    assert (free.name, free.on_hub, free.warning()) == ("free", False, "")
    assert free.license == License(id="apache-2.0", text="apache-2.0")
    assert base(folder_with(tmp_path / "plain", "tags: [a]")).license is None
    damaged = folder_with(tmp_path / "damaged", "license: [")
    assert base(damaged).license is None
    assert find_base(Source(None, "random"), "none", arch) is None
    auto = find_base(Source(str(tmp_path / "free"), "nvidia/mit-b0"), "auto", arch)
    assert auto and auto.license and auto.license.noncommercial and auto.on_hub
    for hub_id in ("facebook/mask2former-swin-large-ade-semantic", "facebook/maskformer-swin-base"):
        typed = find_base(Source(str(tmp_path / "free"), hub_id), hub_id, arch)
        assert typed and typed.license and typed.license.id == "cc-by-nc-4.0"


@pytest.mark.parametrize(
    ("text", "id_", "forbidden"),
    [
        ("Apache-2.0", "apache-2.0", False),
        ("MIT", "mit", False),
        ("CC BY-NC 4.0", "cc-by-nc-4.0", True),
        ("DINOv3 License", "other", False),
        ("NVIDIA Source Code License for SegFormer (non-commercial)", "other", True),
    ],
)
def test_the_licences_of_the_built_in_architectures(text: str, id_: str, forbidden: bool) -> None:
    found = License.named(text)
    assert (found.id, found.noncommercial) == (id_, forbidden)


def test_front_matter_is_read(tmp_path: Path) -> None:
    front = "license: other\nlicense_name: research-only\nlicense_link: https://a.b/c"
    found = read_license(card_of(folder_with(tmp_path / "a", front)))
    assert found == License(id="other", text="research-only", link="https://a.b/c")
    assert found.noncommercial
    link = "license: other\nlicense_link: javascript:alert(1)"
    assert read_license(f"---\n{link}\n---\n") == License(id="other", text="other")
    assert read_license("") is None


@pytest.mark.slow
def test_a_run_from_weights_that_forbid_commercial_use(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "last", tmp_path / "first")
    (tmp_path / "first/README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# First\n")
    given = ("--dataset", f"folder:root={data}", "--output-dir", "run", "--weights", "first")
    flags = [one for one in TINY if one not in ("--weights", "none")]
    done = assert_succeeded(warm(*flags, *given, cwd=tmp_path))
    warning = "warning: the licence of the weights first forbids commercial use (cc-by-nc-4.0), and"
    assert done.stderr.startswith(warning) and warning not in done.stdout
    text = card_of(tmp_path / "run/best")
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "cc-by-nc-4.0"
    assert "**Not for commercial use.** Trained from the weights first, whose licence is" in text
    described = side_file(tmp_path / "run/network")["base_model"]  # for a resumed run
    assert Base.read(described) == Base.read(side_file(tmp_path / "run/best")["base_model"])
    assert described["license"]["id"] == "cc-by-nc-4.0"
