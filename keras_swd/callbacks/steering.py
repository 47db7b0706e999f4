"""Passes the strength and the selected units to each step of training."""

from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_swd.backend.hostcall import HostCall, can_call
from keras_swd.callbacks.choosing import Once, Renewed
from keras_swd.prunable import Attached
from keras_swd.regularizers.plan import Plan
from keras_swd.targets.aims import Aim
from keras_swd.units.kernels import Choice


class Steering:
    """Tells every step of a run the strength, and the units that are lowest.

    Steps that can call the host ask for both while they run. For others, and
    for the first step, which may not ask, both are written beforehand.

    Args:
        model: The model that is about to train.
        attached: List of `Attached` and `Aim`, what gets the strength.
        plans: List of `Plan`, that of each one's regularizer.
        selection: How units are chosen.
        total_steps: Integer, the number of steps of the whole run.
    """

    def __init__(
        self,
        model: keras.Model,
        attached: Sequence[Attached | Aim],
        plans: Sequence[Plan],
        selection: Renewed | Once,
        total_steps: int,
    ):
        self.attached = attached
        self.plans = plans
        self.selection = selection
        self.total_steps = total_steps
        #: Whether steps that were compiled before would ask nobody.
        self.must_compile = False
        self._strengths = [0.0] * len(attached)
        self._progress = 0.0
        self._written: Sequence[Choice] | None = None
        # Steps of one execution, and how many of the present one have asked.
        self._together = getattr(model, "steps_per_execution", None) or 1
        self._running = False
        self._answers = 0
        self._call: HostCall | None = None
        asking = [each for each in attached if isinstance(each, Attached)]
        if asking and isinstance(selection, Renewed) and can_call():
            self._call, self.must_compile = _shared_call(model, asking)
            self._call.begin(self._answer)

    @property
    def strength(self) -> float:
        """The largest strength of the present step."""
        return max(self._strengths)

    def strongest(self, progress: float) -> float:
        """Returns the largest strength of all regularizers at `progress`."""
        return max(plan.strength(progress) for plan in self.plans)

    def decay(self, progress: float) -> float:
        """Returns the strongest decay of a selected weight at `progress`."""
        progress = min(progress, 1.0)
        pairs = zip(self.attached, self.plans, strict=True)
        return max(a.regularizer.decay(p.strength(progress)) for a, p in pairs)

    def growing_decays(self, at: float) -> list[Callable[[float], float]]:
        """Returns each decay of selected weights that a strength drives.

        Args:
            at: Float, a progress; of decays that are equal there one counts.

        Returns:
            List of functions of progress.
        """
        found: dict[float, Callable[[float], float]] = {}
        for each, plan in zip(self.attached, self.plans, strict=True):

            def decay(progress, each=each, plan=plan):
                return each.regularizer.decay(plan.strength(progress))

            if plan.strength(at) and decay(at):
                found[decay(at)] = decay
        return list(found.values())

    def begin_step(self, progress: float) -> None:
        """Prepares the step, or steps of one execution, at `progress`."""
        self._set_strengths(progress)
        asks = self._answers > 0 and not self._is_bypassed()
        self._running, self._answers = True, 0
        choices = None
        if not asks:
            self.selection.renew()
            if self.selection.choices is not self._written:
                choices = self._written = self.selection.choices
            if self._call is not None:
                self._call.forget()
        for each, strength in zip(self.attached, self._strengths, strict=True):
            if isinstance(each, Aim) or not asks:
                each.set(strength, choices)

    def end_step(self) -> None:
        """Notes that the step is done: what asks now does not train."""
        self._running = False

    def release(self) -> None:
        """Leaves plain weight decay to what comes after this run."""
        for each in self.attached:
            each.release()
        if self._call is not None:
            self._call.end()

    def logs(self) -> dict[str, float]:
        """Returns what methods add to `logs` at the end of an epoch."""
        logs: dict[str, float] = {}
        for each in self.attached:
            logs.update(each.logs())
        return logs

    def _set_strengths(self, progress: float) -> None:
        """Finds the strength of each, for one step."""
        self._progress = progress
        self._strengths = [plan.strength(progress) for plan in self.plans]

    def _is_bypassed(self) -> bool:
        """Whether something reads what is written, instead of asking."""
        return self._call is None or self._call.bypassed

    def _answer(self) -> np.ndarray:
        """Answers a call; for a step of training the lowest are found anew."""
        # Evaluation in the midst of a step asks too, and gets the same.
        if self._running and self._answers < self._together:
            if self._answers > 0:
                after = self._progress + 1.0 / self.total_steps
                self._set_strengths(min(after, 1.0))
            self._answers += 1
            if not self._is_bypassed():
                self.selection.renew()
        choices = self.selection.choices
        told = zip(self.attached, self._strengths, strict=True)
        parts = [
            # Before the first step nothing is chosen yet.
            [strength, *each.selection(choices)]
            if choices
            else each.controls.idle()
            for each, strength in told
            if isinstance(each, Attached)
        ]
        return np.concatenate(parts).astype("float32")


def _shared_call(
    model: keras.Model, asking: Sequence[Attached]
) -> tuple[HostCall, bool]:
    """What the steps of a model call, and whether they must be compiled."""
    controls = [each.controls for each in asking]
    start = 0
    for each in controls:
        each.start = start
        start += 1 + each.size
    call = controls[0].calls.get(model)
    new = call is None or call.members != controls
    if call is None or new:
        weights = [weight for each in asking for weight in each.weights]
        variables = {id(weight.variable): weight.variable for weight in weights}
        idle = np.concatenate([each.idle() for each in controls])
        call = HostCall(list(variables.values()), controls, idle)
    for each in controls:
        each.calls[model] = each.call = call
    return call, new
