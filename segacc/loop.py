"""The training loop: `train`, `train_step` and `evaluate`, to be read from top to bottom."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from operator import attrgetter

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from segacc.contracts import IGNORE, MetricState
from segacc.data.items import Batch, Item
from segacc.data.pictures import Example
from segacc.errors import SegaccError
from segacc.evaluation.metrics import computed, joined
from segacc.evaluation.scores import Scores
from segacc.evaluation.scoring import Scoring
from segacc.model import Logits
from segacc.training import checkpoint
from segacc.training.events import Evaluated, Event, Saved, Started
from segacc.training.feed import Meter, StepNumbers, Trouble, on_any, scored, stacked, step_batches
from segacc.training.limits import ending
from segacc.training.limits.ending import refit
from segacc.training.limits.memory import attempts
from segacc.training.limits.signals import StoppedError
from segacc.training.processes import on_all
from segacc.training.run import Run
from segacc.training.saving.model import attempt, average, forget_best, kinds, save_model, using

Stop = Callable[[], bool]


def train(run: Run) -> Iterator[Event]:
    """Train from the run's current step to its last one.

    Yields:
        Started, then for each step StepDone and, when due, Fitted, Halved, Skipped, Evaluated and
        Saved; Stopped at the end.
    """
    progress, meter, clock = run.progress, Meter(run), run.clock
    yield started(run)

    with run.signal as signal:
        try:
            if run.evaluation_due():  # the run was stopped between a step and its evaluation
                clock.lap("start")
                yield from evaluation(run)
                clock.lap("evaluation")
                if run.unsaved() and (saved := attempt(run, partial(save_checkpoint, run))):
                    yield saved
                clock.lap("checkpoint")
                meter.restart()

            for micro_batches in step_batches(run, meter, signal):
                numbers = train_step(run, micro_batches)
                progress.step += 1
                run.read_up_to(micro_batches)
                clock.lap("step")
                yield from refit(run)

                yield from filter(None, (numbers.halved, numbers.skipped))
                yield meter.step_done(numbers)

                if run.evaluation_due() and not any(on_any(run.accelerator, bool(signal.name))):
                    yield from evaluation(run)
                    clock.lap("evaluation")

                if run.checkpoint_due():
                    if saved := attempt(run, partial(save_checkpoint, run)):
                        yield saved
                    clock.lap("checkpoint")

                meter.restart()

            if run.unsaved() or not progress.step:
                yield save_checkpoint(run)
            yield saved_model(run, "last")
        except Exception as error:
            if run.unsaved() and run.can_save(error):
                with suppress(Exception):  # the first error is told
                    yield save_checkpoint(run)
            ending.tell(run, error)
            raise

        if not signal.error:
            yield ending.stopped(run, signal.name)
        run.accelerator.wait_for_everyone()  # a launcher ends all processes once one has ended

    run.accelerator.end_training()
    if signal.error:
        ending.note_exit(run, None, signal.error)
        raise signal.error


def started(run: Run) -> Started:
    """Return the first event of a run."""
    step, evaluated = run.progress.step, run.progress.evaluated if run.plan.resume else None
    notes = tuple(run.notes)
    return Started(
        folder=run.folder, step=step, evaluated=evaluated, max_steps=run.max_steps, notes=notes
    )


def train_step(run: Run, micro_batches: list[Batch]) -> StepNumbers:
    """Take one optimizer step on this process's micro-batches.

    Each loss is summed over the effective batch (all micro-batches of all processes) and divided by
    the count of that batch, so the gradient does not depend on how the batch is split.
    """
    run.begin_step()
    with run.passes():
        counts, valid = effective_counts(run, micro_batches)
    for trial in attempts(run, micro_batches):  # again in smaller parts if the memory was full
        losses = torch.zeros_like(counts)
        with run.passes(), trial:
            for batch in trial:
                losses += backward(run, batch, counts, trial.share)
    grad_norm = run.clip_gradients()
    skipped = run.guard.check(run.progress, losses, grad_norm, micro_batches)
    if not skipped:
        with run.update():
            run.optimizer.step()
            average(run)
    run.optimizer.zero_grad()
    return StepNumbers(
        losses=losses, grad_norm=grad_norm, valid=valid, skipped=skipped, halved=trial.halved
    )


def backward(run: Run, batch: Batch, counts: Tensor, share: int) -> Tensor:
    """Add the gradient of a micro-batch; return its share of each loss: (L,) float.

    Args:
        run: the run.
        batch: the micro-batch.
        counts: (L,), what each loss is divided by.
        share: number of processes and micro-batches, over which accelerate averages.
    """
    with run.accelerator.accumulate(run.model):
        logits = run.logits(batch.images)
        terms = loss_sums(run, logits, batch.labels) / counts
        run.accelerator.backward(terms.sum() * share)
    return terms.detach()


def effective_counts(run: Run, micro_batches: list[Batch]) -> tuple[Tensor, Tensor]:
    """Sum each loss's count (L,) and the valid pixels over micro-batches and processes."""
    labels = [batch.labels for batch in micro_batches]
    counts = [
        torch.stack([loss.count(label) for label in labels]).sum() for loss in run.losses.values()
    ]
    valid = torch.stack([(label != IGNORE).sum() for label in labels]).sum()
    total, valid = run.accelerator.reduce((torch.stack(counts), valid), "sum")
    return total.where(total != 0, 1), valid  # a sum of no pixel is 0


def loss_sums(run: Run, logits: Logits, labels: Tensor) -> Tensor:
    """Sum each loss over a micro-batch, adding auxiliary logits by their weights: (L,) float."""
    main = logits.main if logits.queries is None else logits.queries
    sums = []
    for loss in run.losses.values():
        total = loss.sum(main, labels)
        for auxiliary, weight in logits.auxiliary:
            total = total + weight * loss.sum(auxiliary, labels)
        sums.append(total)
    return torch.stack(sums)


def evaluation(run: Run) -> Iterator[Event]:
    """Score the validation split with each kind of weights; the last kind decides what is best.

    Yields:
        Evaluated for each kind, and Saved if the score is the best so far. Nothing if a signal
        interrupts the evaluation: a resumed run then starts with it.
    """
    progress, best, found = run.progress, False, []
    forget_best(run)
    before = progress.best, progress.best_step
    for weights in kinds(run):
        start = time.perf_counter()
        try:
            with using(run, weights):
                scores, examples = evaluate(run.scoring, stop=lambda: bool(run.signal.name))
        except StoppedError:
            return
        progress.num_images = run.scoring.num_images
        if weights == kinds(run)[-1]:
            best = run.note(scores)
        event = Evaluated(
            step=progress.step,
            scores=scores,
            terms=run.scoring.terms(),
            seconds=time.perf_counter() - start,
            best=best,
            examples=tuple(examples),
        )
        found.append(event)
    yield from found
    if best:
        now = progress.best, progress.best_step
        progress.best, progress.best_step = before  # until best/ has these weights
        if saved := attempt(run, partial(saved_model, run, "best")):
            progress.best, progress.best_step = now
            yield saved


def evaluate(scoring: Scoring, stop: Stop | None = None) -> tuple[Scores, list[Example]]:
    """Score a split, exactly the same on any number of processes; return the kept examples, too.

    Each process predicts its share at the images' size, and the metrics' states are added up. All
    make the same number of forward calls, as sharded networks need; padding is not counted.

    Args:
        scoring: the network, the data, the metrics and the protocol.
        stop: called after each batch; if it returns True on any process, all processes stop.

    Raises:
        StoppedError: `stop` returned True on a process.
        SegaccError: on all processes at the end, if one of them met bad data, an image whose size
            does not fit the network, or an error in a plugin.
    """
    accelerator = scoring.accelerator
    metrics, batches = on_all(accelerator, lambda: (scoring.metrics(), scoring.loader()))
    examples: list[Example] = []
    images = 0
    trouble = Trouble(accelerator, allowed=scoring.skip_unreadable, seen=scoring.unreadable)
    scoring.model.eval()
    for batch in scored(batches, trouble, scoring.data, scoring.stand_in()):
        try:
            images += score(scoring, metrics, batch, examples)
        except SegaccError as error:
            trouble.add(error)
        if trouble.error and accelerator.num_processes == 1:  # several make equally many calls
            break
        if stop is not None and any(on_any(accelerator, stop())):
            raise StoppedError
    trouble.settle()
    scores, count = gather_scores(scoring, metrics), torch.tensor(images, device=accelerator.device)
    scoring.counted, scoring.num_images = metrics, int(accelerator.reduce(count, "sum"))
    examples = sorted(gather_object(examples), key=attrgetter("id"))
    return scores, examples if accelerator.is_main_process else []


def score(
    scoring: Scoring, metrics: dict[str, MetricState], batch: list[Item], examples: list[Example]
) -> int:
    """Predict a batch, feed the metrics and keep examples; return the number of images that count.

    Raises:
        PluginError: the network or a metric failed.
        OptionError: the size that the protocol gives does not fit the network.
    """
    images = 0
    found = scoring.decide(stacked([item.image for item in batch]).to(scoring.accelerator.device))
    for item, one in zip(batch, found.each(), strict=True):
        prediction, counts = one.classes[0], scoring.count(metrics, item, one)
        scoring.seen(item, prediction, counts)
        images += counts is not None
        if counts is not None and item.id in scoring.keep:
            examples.append(Example(item.id, item.image, item.label, prediction.cpu()))
    return images


def gather_scores(scoring: Scoring, metrics: dict[str, MetricState]) -> Scores:
    """Sum the metric states over processes and compute; all get the main process's scores."""
    accelerator = scoring.accelerator
    found: list[Scores] = []
    for name, metric in metrics.items():
        for key, value in metric.state.items():
            metric.state[key] = accelerator.reduce(value.to(accelerator.device), "sum")
        scores = on_all(accelerator, partial(computed, scoring.origin(name), metric))
        found += broadcast_object_list([scores])
    return joined(found)


def saved_model(run: Run, name: str) -> Saved:
    """Write best/ or last/."""
    return Saved(step=run.progress.step, folder=save_model(run, name))


def save_checkpoint(run: Run) -> Saved:
    """Write checkpoints/step-N."""
    progress, parent, before = run.progress, run.folder / "checkpoints", run.progress.saved
    progress.saved, progress.seconds, run.save_soon = progress.step, run.clock.used(), False
    progress.max_steps, progress.unreadable = run.max_steps, sorted(run.unreadable)
    keep = run.config.keep
    try:
        folder = checkpoint.save(parent, progress, run.accelerator, keep=keep, ema=run.ema)
    except Exception:
        progress.saved = before
        raise
    run.evaluation_saved = progress.evaluated
    return Saved(step=progress.step, folder=folder)
