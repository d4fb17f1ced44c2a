"""Folders of transformers: segacc resizes as their image processor, or says what it does not do."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from transformers.image_transforms import get_size_with_aspect_ratio

from data_tools import tiny_segformer
from network_tools import small_network
from protocol_tools import draw
from segacc.contracts import Facts
from segacc.errors import WeightsError
from segacc.evaluation.protocol import Protocol
from segacc.evaluation.segmenter import Segmenter
from segacc.registry import load_registry

NAMES = ("a", "b", "c", "d")
SIDES = {"height": 64, "width": 96}
SHORT = {"shortest_edge": 64}
WHITE_IS_255 = {"image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]}
M3 = ([0.4, 0.4, 0.4], [0.2, 0.2, 0.2])
CROP = {"do_center_crop": True, "crop_size": {"height": 48, "width": 48}}


@pytest.fixture(scope="module")
def network() -> Any:
    """A SegFormer with random weights that tells several classes."""
    record = load_registry().find("architecture", "segformer", "this test")
    torch.manual_seed(0)
    model = record.build(record.tiny(), Facts(num_classes=4, class_names=NAMES)).network
    torch.nn.init.normal_(model.decode_head.classifier.weight, std=3.0)
    return model.eval()


def saved(folder: Path, network: Any, processor: Any) -> Path:
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("processor", "protocol"),
    [
        (("Beit", {"size": SIDES}), "whole:size=64x96,interpolation=bicubic"),
        (("DPT", {"size": SIDES, "resample": 0}), "whole:size=64x96,interpolation=nearest"),
        (("Segformer", {"size": SIDES}), "whole:size=64x96"),
        (
            ("MobileNetV2", {**CROP, "size": SHORT, "resample": 3, "do_center_crop": False}),
            "whole:short_side=64,interpolation=bicubic",
        ),
        (
            ("Segformer", {"size": SIDES, "do_rescale": False, **WHITE_IS_255}),
            "whole:size=64x96",
        ),
        (
            ("Segformer", {"size": SIDES, "rescale_factor": 1 / 127.5, "do_normalize": False}),
            "whole:size=64x96",
        ),
    ],
)
def test_the_prediction_is_that_of_transformers(
    network: Any, processor: Any, protocol: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = getattr(transformers, f"{processor[0]}ImageProcessor")
    folder = saved(tmp_path, network, kind(**processor[1]))
    capsys.readouterr()
    segmenter = Segmenter.from_pretrained(folder, "cpu")
    assert segmenter.protocol.text() == protocol and capsys.readouterr().err == ""
    prepare = transformers.AutoImageProcessor.from_pretrained(folder)
    theirs = transformers.AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    for size in ((61, 83), (120, 97), (33, 150)):
        image = Image.fromarray(draw(*size).permute(1, 2, 0).numpy())
        with torch.no_grad():
            logits = theirs(**prepare(image, return_tensors="pt")).logits
        resized = torch.nn.functional.interpolate(logits, size=size, mode="bilinear")
        found = torch.from_numpy(segmenter(image))
        assert torch.equal(found, resized[0].argmax(0).byte()) and len(found.unique()) > 1


@pytest.mark.parametrize(
    ("processor", "protocol", "told"),
    [
        (
            ("MobileNetV2", {"size": SHORT, **CROP}),
            "whole:short_side=64",
            "cuts out the centre, 48x48 pixels; segacc segments the whole image",
        ),
        (
            ("Mask2Former", {"size": {"shortest_edge": 64, "longest_edge": 90}}),
            "whole:short_side=64,long_side=90",
            "rounds the longer side down; segacc rounds both sides to the nearest pixel",
        ),
        (
            ("DPT", {"size": SIDES, "keep_aspect_ratio": True, "resample": 1}),
            "whole:size=64x96,interpolation=bicubic",
            "keeps the aspect ratio; segacc resizes to its height and width",
        ),
    ],
)
def test_what_segacc_does_not_do_is_told(
    network: Any,
    processor: Any,
    protocol: str,
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kind = getattr(transformers, f"{processor[0]}ImageProcessor")
    folder = saved(tmp_path, network, kind(**processor[1]))
    capsys.readouterr()
    segmenter = Segmenter.from_pretrained(folder, "cpu")
    assert segmenter.protocol.text() == protocol
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"{folder}: the image processor {told}"
    more = f"{folder}: the image processor resizes with the kernel lanczos; segacc takes bicubic"
    assert lines[1:] == ([more] if processor[0] == "DPT" else [])
    assert segmenter(draw(61, 83)).shape == (61, 83)


@pytest.mark.parametrize(("short", "long"), [(800, 1333), (64, 90), (64, 64), (90, 64)])
def test_a_limited_longer_side_is_theirs_up_to_rounding(
    network: Any, tmp_path: Path, short: int, long: int
) -> None:
    size = {"shortest_edge": short, "longest_edge": long}
    folder = saved(tmp_path, network, transformers.Mask2FormerImageProcessor(size=size))
    protocol = Segmenter.from_pretrained(folder, "cpu").protocol
    assert Protocol.parse(protocol.text(), "test") == protocol, "it can be typed"
    for height, width in ((height, width) for height in range(20, 900, 23) for width in (64, 501)):
        theirs = get_size_with_aspect_ratio((height, width), short, long)
        ours = protocol.seen_size((height, width))
        assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= 1, (height, width)


def test_an_unknown_kernel_is_refused(network: Any, tmp_path: Path) -> None:
    folder = saved(tmp_path, network, transformers.BeitImageProcessor(size=SIDES))
    path = folder / "preprocessor_config.json"
    path.write_text(path.read_text().replace('"resample": 3', '"resample": 9'))
    with pytest.raises(WeightsError) as error:
        Segmenter.from_pretrained(folder, "cpu")
    assert str(error.value) == (
        f"{folder}: preprocessor_config.json: resample is 9, which is no kernel of Pillow; "
        "expected 0 (nearest), 2 (bilinear) or 3 (bicubic)."
    )


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("image_mean", ["a", "b"], "image_mean is ['a', 'b']; expected a number, or one per"),
        ("image_std", [1, 0, 1], "image_std is [1, 0, 1]; expected a number greater than 0, or"),
        ("image_std", [], "image_std is []; expected a number"),
        ("rescale_factor", "1/255", "rescale_factor is '1/255'; expected a number greater"),
        ("size", {"shortest_edge": -5}, "size: shortest_edge is -5; expected a number of pixels"),
        ("size", {"height": 64.5, "width": 9}, "size: height is 64.5; expected a number of"),
    ],
)
def test_values_that_cannot_be_used_are_refused(
    network: Any, tmp_path: Path, name: str, value: Any, text: str
) -> None:
    folder = saved(tmp_path, network, transformers.SegformerImageProcessor(size=SIDES))
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(WeightsError) as error:
        Segmenter.from_pretrained(folder, "cpu")
    assert str(error.value).startswith(f"{folder}: preprocessor_config.json: {text}")


@pytest.mark.parametrize("value", [["a", "b", "c", "d"], {"a": "0"}])
def test_class_names_without_ids_are_refused(network: Any, tmp_path: Path, value: Any) -> None:
    folder = saved(tmp_path, network, transformers.SegformerImageProcessor(size=SIDES))
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "id2label": value}))
    expected = f'{folder}: config.json: id2label must map ids to names, as {{"0": "road"}}.'
    with pytest.raises(WeightsError) as error:
        Segmenter.from_pretrained(folder, "cpu")
    assert str(error.value) == expected
    with pytest.raises(WeightsError) as error:
        tiny_segformer(4).load_weights(str(folder))
    assert str(error.value) == expected


def test_one_number_stands_for_all_channels(network: Any, tmp_path: Path) -> None:
    folder = saved(tmp_path, network, transformers.SegformerImageProcessor(size=SIDES))
    path = folder / "preprocessor_config.json"
    found = json.loads(path.read_text())
    one, three = ({"image_mean": mean, "image_std": std} for mean, std in ((0.4, 0.2), M3))
    images = []
    for more in (one, three):
        path.write_text(json.dumps({**found, **more}))
        images.append(Segmenter.from_pretrained(folder, "cpu").probabilities(draw(61, 83)))
    assert (images[0] == images[1]).all()


def test_windows_are_those_of_eomts_processor(tmp_path: Path) -> None:
    """A photo of 16:9 has two windows; by default they would be a third apart, and three."""
    torch.manual_seed(3)
    subject, model = small_network("eomt")
    for one in model.network.modules():
        if isinstance(one, torch.nn.Linear):
            one.weight.data.mul_(6)
    torch.nn.init.normal_(model.network.query.weight, std=3)
    torch.nn.init.normal_(model.network.class_predictor.weight)
    names = subject.facts.class_names
    model.save_pretrained(tmp_path, names=names, state_dict=model.state_dict())
    prepare = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    theirs = transformers.AutoModelForUniversalSegmentation.from_pretrained(tmp_path).eval()
    image = Image.fromarray(draw(97, 185).permute(1, 2, 0).numpy())
    given = prepare(image, return_tensors="pt")
    assert len(given["pixel_values"]) == 2
    with torch.no_grad():
        outputs = theirs(**given)
    [wanted] = prepare.post_process_semantic_segmentation(outputs, target_sizes=[(97, 185)])
    found = torch.from_numpy(Segmenter.from_pretrained(tmp_path, "cpu")(image))
    assert torch.equal(found, wanted.byte()) and len(found.unique()) > 1


def test_a_network_of_one_logit_has_two_classes(network: Any, tmp_path: Path) -> None:
    """Transformers trains it with a sigmoid if `num_labels` is 1."""
    one = copy.deepcopy(network)
    head = one.decode_head.classifier
    one.decode_head.classifier = torch.nn.Conv2d(head.in_channels, 1, 1)
    one.config.id2label = {0: "nucleus"}
    processor = transformers.SegformerImageProcessor(do_resize=False)
    segmenter = Segmenter.from_pretrained(saved(tmp_path, one, processor), "cpu")
    assert segmenter.labels.names == ("background", "nucleus")
    image = draw(64, 96)
    given = processor(image, return_tensors="pt")
    with torch.no_grad():
        logits = one(**given).logits
    wanted = torch.nn.functional.interpolate(logits, size=(64, 96), mode="bilinear")[0].sigmoid()
    found = torch.from_numpy(segmenter.probabilities(image))
    torch.testing.assert_close(found[1:], wanted)
    cut = segmenter.with_threshold(float(wanted.quantile(0.9)))(image)
    assert 0.08 < cut.mean() < 0.12
