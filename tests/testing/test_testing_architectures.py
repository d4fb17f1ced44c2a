"""The conformance kit finds networks that break their promise, and says what is wrong."""

import pytest

from broken_networks import (
    Alone,
    Auxiliary,
    Checkpoints,
    Crashes,
    Detached,
    DetachedInTraining,
    Elsewhere,
    Floors,
    Forgets,
    Half,
    Hides,
    KeepsHead,
    LosesRows,
    Mixes,
    MixesInTraining,
    Nameless,
    Overflows,
    Plain,
    RandomTwice,
    Right,
    Rolls,
    SeesLabels,
    Steps,
    ThreeChannels,
    Undivided,
    Unseeded,
    WidthOptions,
    architecture,
)
from refusals import assert_refuses
from segacc.model import SizeRule
from segacc.testing import (
    check_architecture,
)


def test_a_right_network() -> None:
    check_architecture(architecture(Right), WidthOptions(), WidthOptions(width=4))
    check_architecture(architecture(Floors, size_rule=SizeRule(multiple=8)))
    check_architecture(architecture(Undivided), head_and_encoder=False)


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (
            Floors,
            "logits that depend on all of an image of 71x77, which size_rule accepts; found that "
            "its last 7 rows and 5 columns have no effect: declare SizeRule(multiple=...) so "
            "that segacc pads, or pad in forward.",
        ),
        (
            Crashes,
            "images of 71x77, which size_rule accepts, to be accepted; found RuntimeError: ...",
        ),
        (
            Forgets,
            "all tensors of save_pretrained to be restored by build(options) and load_weights; "
            "found that encoder.1.running_mean are new.",
        ),
        (Nameless, "id2label in config.json to be road, tree, sky; found none."),
        (
            Unseeded,
            "two networks built with the same torch seed to have equal weights; found other "
            "weights in head.bias: use torch's generator to draw them.",
        ),
        (
            Mixes,
            "the same logits for an image alone and in a batch of two, in evaluation; "
            "found a difference of up to #.",
        ),
        (
            Rolls,
            "the same logits for the same images in evaluation, twice; found a difference of up "
            "to #.",
        ),
        (
            SeesLabels,
            "forward(images) to take images only; labels are passed to losses only; found "
            "forward(images, labels).",
        ),
        (
            Plain,
            "segacc.model.Logits of 3 classes in evaluation; found PluginError: --arch: the "
            "network returns Tensor; expected segacc.model.Logits, as Logits(tensor).",
        ),
        (
            Half,
            "float32 weights; the run chooses the precision; found head.bias: torch.float16, "
            "head.weight: torch.float16.",
        ),
        (Auxiliary, "auxiliary logits in training only; found 1 in evaluation."),
        (Overflows, "a finite loss in bfloat16; found nan."),
        (
            Detached,
            "a gradient of the logits with respect to the image; found none: something is "
            "detached.",
        ),
        (
            DetachedInTraining,
            "a gradient for most parameters (segacc freezes the others); found none for "
            "encoder.0.weight, encoder.0.bias, encoder.1.weight, encoder.1.bias: 98 % of all "
            "parameters.",
        ),
        (
            Undivided,
            "is_head() to be true for some trainable parameters and false for others; found 0 of "
            "6 in the head: set head_prefixes, or check with head_and_encoder=False.",
        ),
        (
            Elsewhere,
            "`classifiers` to list modules with tensors; decoder is listed; found no tensor "
            "with this name.",
        ),
        (
            KeepsHead,
            "load_weights(fresh_head=True) not to load the head; found that head.weight, "
            "head.bias changed.",
        ),
        (
            LosesRows,
            "rows of head.weight to be reused by class name in a network with other classes; "
            "found other values.",
        ),
        (
            Hides,
            "state_dict() to determine the logits; found a difference of up to # "
            "after load_state_dict: register such tensors as buffers.",
        ),
        (Checkpoints, "the same loss with gradient checkpointing as without; found # and #."),
        (
            Steps,
            "on_step(0, 10) to on_step(9, 10), and forward after each; found AssertionError: the "
            "last step...",
        ),
        (
            ThreeChannels,
            "images of facts.num_channels=1 channels to be accepted; found RuntimeError: ...",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_network(network: type[Right], text: str) -> None:
    assert_refuses(f"architecture net: expected {text}", check_architecture, architecture(network))


@pytest.mark.launch
def test_processes_that_learn_something_else() -> None:
    text = "architecture net: expected a step on 2 processes to equal that of one process, "
    mixed = architecture(MixesInTraining)
    check_architecture(mixed)
    assert_refuses(
        f"{text}with the same losses; found # and #.", check_architecture, mixed, processes=2
    )


@pytest.mark.launch
def test_processes_with_random_numbers_must_be_near() -> None:
    text = "architecture net: expected a step on 2 processes to equal that of one process, "
    told = "with about the same losses; found # and #."
    assert_refuses(f"{text}{told}", check_architecture, architecture(RandomTwice), processes=2)


@pytest.mark.launch
def test_a_process_that_fails() -> None:
    fails = architecture(Alone)
    check_architecture(fails)
    assert_refuses(
        "architecture net: expected a step on 2 processes to equal that of one process; "
        "found RuntimeError: PluginError: plugin segacc-testing, architecture net: a dry run of "
        "the network failed: ValueError: two are too many (.../broken_networks.py:#). "
        "SEGACC_TRACEBACK=1 shows the traceback.",
        check_architecture,
        fails,
        processes=2,
    )
