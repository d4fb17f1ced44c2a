"""Flags of other training tools, and what segacc has in their place."""

import re
from collections.abc import Collection, Mapping

from segacc.errors import did_you_mean

FOLDER = "--dataset folder:root=DIR"
"""The data set of most users."""

FLAGS: Mapping[str, str] = {
    # Model and data
    "--arch": "model architecture network model-type model-name",
    "--arch upernet:backbone=NAME": "backbone encoder encoder-name",
    "--arch segformer:drop_path=0.1": "drop-path drop-path-rate",
    "--arch segformer:dropout=0.1": "dropout drop",
    "--weights": "pretrained pretrained-weights encoder-weights initial-checkpoint load-from "
    "model-name-or-path pretrained-model-name-or-path",
    "--dataset": "data dataset-name data-config dataset-type datasets",
    FOLDER: "data-dir data-path data-root path root train train-dir",
    f"{FOLDER},reduce_labels=true": "reduce-labels do-reduce-labels reduce-zero-label",
    f"{FOLDER},ignore=255": "ignore-index ignore-label",
    f"{FOLDER},names=FILE": "names class-names id2label metainfo",
    f"{FOLDER},map=FILE": "label-mapping label-map",
    f"{FOLDER},labels=DIR": "masks-dir mask-dir ann-dir data-prefix",
    f"{FOLDER},image_suffix=_rgb": "img-suffix image-suffix",
    f"{FOLDER},label_suffix=_mask": "seg-map-suffix label-suffix mask-suffix",
    "--image-mean": "mean pixel-mean",
    "--image-std": "std pixel-std",
    "--eval-split": "val-split validation-split",
    "--val-fraction": "train-val-split validation-fraction val-size val-ratio test-size",
    "--augment": "augmentation augmentations auto-augment aa",
    "--aug": "augs transforms",
    "--aug none": "no-aug no-augment",
    "--aug color_jitter": "color-jitter hsv-h hsv-s hsv-v",
    "--aug copy_paste": "copy-paste",
    "--aug cutmix": "cutmix",
    "--aug flip": "hflip fliplr",
    "--aug random_erasing": "erasing random-erasing reprob",
    "--aug random_scale_crop:scale_min=0.5,scale_max=1.5": "scale",
    "--aug rotate:degrees=10": "degrees",
    "--aug vertical_flip": "flipud vflip",
    "--aug mosaic": "mosaic",
    "--aug mosaic:until=0.9": "close-mosaic",
    "--class-weights": "class-weight weighted-loss",
    "--class-weights enet": "cls-pw",
    "--loss": "criterion loss-fn loss-type",
    "--loss cross_entropy:label_smoothing=0.1": "label-smoothing label-smoothing-factor smoothing",
    "--metric": "metrics",
    # Training length
    "--epochs": "num-train-epochs num-epochs max-epochs n-epochs",
    "--max-steps": "max-train-steps num-steps total-steps iterations iters max-iters num-iters "
    "total-iters max-iterations",
    "--max-time": "time max-duration",
    "--early-stop mean_iou:patience=5": "patience early-stopping early-stopping-patience",
    # Batch and data loading
    "--batch-size": "batch bs train-batch-size per-device-train-batch-size "
    "per-gpu-train-batch-size batch-size-per-gpu samples-per-gpu",
    "--gradient-accumulation-steps": "accumulate accum grad-accum grad-accum-steps "
    "accumulate-grad-batches accumulation-steps gradient-accumulation accumulative-counts nbs",
    "--crop-size": "img-size imgsz img image-size input-size resolution size",
    "--num-channels": "channels in-channels in-chans input-channels",
    "--num-workers": "workers n-workers dataloader-num-workers data-workers",
    # Optimization
    "--optimizer": "optim opt optimizer-type",
    "--optimizer sgd:momentum=0.9": "momentum",
    "--optimizer adamw:betas=0.9/0.999": "betas opt-betas adam-beta1 adam-beta2",
    "--optimizer adamw:eps=1e-8": "eps opt-eps adam-epsilon",
    "--lr": "learning-rate lr0 base-lr",
    "--head-lr-scale": "head-lr head-lr-mult lr-mult decoder-lr",
    "--layer-decay": "lr-decay-rate layer-lr-decay layerwise-lr-decay llrd",
    "--weight-decay": "wd l2",
    "--warmup-start, as a share of the peak": "start-factor warmup-factor warmup-lr warmup-init-lr",
    "--warmup-steps, in steps or as a fraction of the run": "warmup num-warmup-steps warmup-ratio "
    "warmup-iters warmup-epochs lr-warmup-epochs",
    "--schedule": "scheduler sched lr-schedule lr-scheduler lr-scheduler-type lr-policy",
    "--schedule linear:floor=0.01": "lrf",
    "--schedule cosine": "cos-lr cosine",
    "--schedule poly:power=0.9": "power poly-power",
    "--ema": "ema-decay model-ema model-ema-decay use-ema",
    "--max-grad-norm": "clip clip-grad clip-grad-norm grad-clip gradient-clip-val "
    "gradient-clipping",
    "--freeze encoder": "freeze-encoder freeze-backbone frozen-stages",
    "--freeze-batchnorm": "freeze-bn frozen-bn norm-eval",
    "--sync-batchnorm": "sync-bn syncbn norm-cfg",
    "--compile": "torch-compile torchcompile dynamo-backend",
    "--gradient-checkpointing": "grad-checkpointing activation-checkpointing with-cp",
    "--mixed-precision": "amp use-amp amp-dtype precision dtype",
    "--mixed-precision fp16": "fp16 half",
    "--mixed-precision bf16": "bf16 bfloat16",
    "--mixed-precision no": "no-amp fp32",
    "--seed": "random-seed rng-seed manual-seed random-state",
    "--processes N": "num-processes nproc nprocs nproc-per-node gpus num-gpus n-gpus world-size "
    "multi-gpu num-devices",
    # Evaluation, checkpoints and logging
    "--protocol slide:crop=512": "slide sliding sliding-window",
    "--protocol tta:scales=0.75/1/1.25": "tta test-time-augmentation multi-scale",
    "--eval-batch-size": "per-device-eval-batch-size val-batch-size validation-batch-size "
    "test-batch-size",
    "--eval-every": "evaluation-strategy eval-strategy eval-steps eval-interval eval-freq "
    "val val-interval val-period val-every val-check-interval check-val-every-n-epoch",
    "--save-every": "save-strategy save-steps save-interval save-period save-freq "
    "checkpointing-steps checkpoint-interval",
    "--log-every": "logging-strategy logging-steps log-interval log-freq log-every-n-steps "
    "print-freq",
    "--best-by": "metric-for-best-model monitor best-metric eval-metric save-best",
    "--keep": "save-total-limit checkpoints-total-limit checkpoint-hist max-keep-ckpts save-top-k",
    "--trackers": "vis-backends report-to log-with with-tracking tracker logger loggers",
    "--trackers tensorboard": "tensorboard",
    "--trackers wandb": "wandb use-wandb",
    # Run folder
    "--output-dir": "output out out-dir work-dir save-dir project name run-name exp-name log-dir "
    "logging-dir default-root-dir",
    "--resume": "resume-from resume-from-checkpoint auto-resume ckpt-path",
    "--overwrite": "overwrite-output-dir exist-ok",
    "--config": "cfg config-file",
}
"""For each of segacc's flags, those of other tools: transformers, timm, torchvision, Lightning,
mmsegmentation and Ultralytics."""

ADVICE: Mapping[str, str] = {
    "Select GPUs with CUDA_VISIBLE_DEVICES=0,1 before the command, or the CPU with "
    "ACCELERATE_USE_CPU=true.": "device devices accelerator gpu gpu-id gpu-ids cuda cpu use-cpu "
    "no-cuda",
    "`--push-to-hub USER/NAME` names the repository.": "hub-model-id",
    "Log in once with `hf auth login`, or set HF_TOKEN; leave this out.": "hub-token",
    "Upload the model after the run with `segacc push OUTPUT_DIR USER/NAME --private`.": ""
    "hub-private-repo",
    "This is an option of accelerate: `accelerate launch --config_file FILE -m segacc train ...`; "
    "accelerate_configs/ has such files.": "deepspeed fsdp launcher local-rank num-machines "
    "machine-rank main-process-port dist-url",
    "`segacc train` trains, evaluates and keeps the best model in best/; leave this out.": ""
    "do-train do-eval load-best-model-at-end",
    "`segacc evaluate MODEL` evaluates a model.": "do-predict eval-only test-only test",
    "`--train-split 'train[:100]'` takes the first 100 samples, and `'train[:10%]'` a tenth.": ""
    "max-train-samples fraction limit-train-batches",
    "`--eval-split 'validation[:100]'` takes the first 100 samples.": "max-eval-samples "
    "max-val-samples limit-val-batches",
    "`--dataset hub:id=USER/NAME,config=NAME` names the configuration.": "dataset-config-name "
    "dataset-config",
    "`hf download NAME --revision REVISION --local-dir FOLDER` fetches a revision, for "
    "`--weights FOLDER`.": "model-revision revision",
    "`segacc predict MODEL IMAGES` writes predictions.": "save-json save-txt",
    "A run always draws pictures, in pictures/ of its folder; leave this out.": "plots",
    "A plugin is found once it is installed; leave this out.": "custom-imports",
    "Each setting is a flag of its own, which wins over `--config`.": "cfg-options",
    "segacc has no need of this; leave it out.": "remove-unused-columns eval-accumulation-steps",
    "The classes are those of the data set.": "num-classes num-labels n-classes nc",
    "`segacc train --processes N` alone has this, as a flag; start other commands with `accelerate "
    "launch -m segacc`.": "processes",
    "Code from a model folder is never run; leave this out.": "trust-remote-code",
}
"""The same where segacc has no flag."""


def by_word() -> dict[str, str]:
    """Return what to say for each word of other tools."""
    told = {f"In segacc this is {flag}.": words for flag, words in FLAGS.items()}
    return {word: text for text, words in {**told, **ADVICE}.items() for word in words.split()}


def suggest(flag: str, known: Collection[str]) -> str:
    """Return what segacc has in place of an unknown flag, and a space; or an empty string.

    Args:
        flag: another tool's flag; any other is compared with the known ones by its letters.
        known: the flags of the command; other flags are not suggested.
    """
    text = by_word().get(flag.lstrip("-").lower())
    if text is None:
        return did_you_mean(flag, known)
    named = re.findall(r"--[a-z-]+", re.sub("`.*?`", "", text))
    return f"{text} " if set(named) <= set(known) else ""


def suggest_key(key: str, known: Collection[str]) -> str:
    """Return the same for a key of a YAML file, as `In segacc this is mixed_precision: fp16.`."""
    word = key.replace("_", "-")
    if word not in by_word():
        return did_you_mean(key, known)
    text = suggest(word, [f"--{one.replace('_', '-')}" for one in known])
    return re.sub("(?<= is )--([a-z-]+)( ?)", _as_key, text)


def _as_key(flag: re.Match[str]) -> str:
    return flag[1].replace("-", "_") + (": " if flag[2] else "")
