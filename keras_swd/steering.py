"""What steps are told: how hard, and which units."""

import functools
from collections.abc import Sequence

import numpy as np

from keras_swd.aims import Aim
from keras_swd.choosing import Once, Renewed
from keras_swd.hostcall import HostCall
from keras_swd.kernels import Choice
from keras_swd.prunable import Attached
from keras_swd.regularizers.plan import Plan


class Steering:
    """Tells every step of a run the strength, and the units that are lowest.

    Steps that can ask are answered while they run, with units found there and
    then. For others, and for the first step, of which it is not known yet,
    both are written before the step.

    Args:
        attached: List of `Attached` and `Aim`, what is told.
        plans: List of `Plan`, that of each one's regularizer.
        selection: How units are chosen.
        total_steps: Integer, the number of steps of the whole run.
    """

    def __init__(
        self,
        attached: Sequence[Attached | Aim],
        plans: Sequence[Plan],
        selection: Renewed | Once,
        total_steps: int,
    ):
        self.attached = attached
        self.plans = plans
        self.selection = selection
        self.total_steps = total_steps
        self._strengths = [0.0] * len(attached)
        self._progress = 0.0
        self._written: Sequence[Choice] | None = None
        self._running = False
        self._asked = False
        self._call: HostCall | None = None
        #: Whether steps that were compiled before cannot ask.
        self.new = False
        answering = [each for each in attached if isinstance(each, Attached)]
        if answering and isinstance(selection, Renewed):
            self._call, self.new = _shared_call(answering)
            self._call.function = functools.partial(self._answer, self._call)

    @property
    def strength(self) -> float:
        """The largest strength that was told to a step."""
        return max(self._strengths)

    def strongest(self, progress: float) -> float:
        """Returns the largest strength of all regularizers at `progress`."""
        return max(plan.strength(progress) for plan in self.plans)

    def decay(self, progress: float) -> float:
        """Returns the strongest decay of a selected weight at `progress`."""
        progress = min(progress, 1.0)
        pairs = zip(self.attached, self.plans, strict=True)
        return max(a.regularizer.decay(p.strength(progress)) for a, p in pairs)

    def begin_step(self, progress: float) -> None:
        """Prepares the step, or steps, that come at `progress`."""
        self._set_strengths(progress)
        asks = self._asks()
        self._running, self._asked = True, False
        choices = None
        if not asks:
            self.selection.renew()
            if self.selection.choices is not self._written:
                choices = self._written = self.selection.choices
        for each, strength in zip(self.attached, self._strengths, strict=True):
            if isinstance(each, Aim) or not asks:
                each.set(strength, choices)
        if self._call is not None and not asks:
            self._call.last = None

    def end_step(self) -> None:
        """Notes that the step is done: what asks now does not train."""
        self._running = False

    def release(self) -> None:
        """Leaves plain weight decay to what comes after this run."""
        for each in self.attached:
            each.release()
        if self._call is not None:
            self._call.function = self._call.last = None

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

    def _asks(self) -> bool:
        """Whether the last step asked, and all that is compiled does."""
        call = self._call
        return call is not None and self._asked and not call.bypassed

    def _answer(self, call: HostCall) -> np.ndarray:
        """What one that asks is told; a step, what is lowest now."""
        if self._running:
            if self._asked:  # the second, or later, of an execution
                after = self._progress + 1.0 / self.total_steps
                self._set_strengths(min(after, 1.0))
            self._asked = True
            if self._asks():
                self.selection.renew()
        answer = np.empty_like(call.idle)
        for each, strength in zip(self.attached, self._strengths, strict=True):
            if isinstance(each, Attached):
                start = each.controls.place
                end = start + 1 + each.controls.size
                answer[start] = strength
                answer[start + 1 : end] = each.numbers(self.selection.choices)
        return answer


def _shared_call(attached: Sequence[Attached]) -> tuple[HostCall, bool]:
    """The call that answers to all of these, and whether it is new to them."""
    controls = [each.controls for each in attached]
    ends = np.cumsum([each.size + 1 for each in controls]).tolist()
    call = controls[0].call
    if call is not None and all(each.call is call for each in controls):
        if call.idle.size == ends[-1]:  # and to no others
            return call, False
    idle = np.full(ends[-1], -1.0, "float32")
    idle[[0, *ends[:-1]]] = 0.0
    variables = {
        id(w.variable): w.variable for each in attached for w in each.weights
    }
    call = HostCall(list(variables.values()), idle)
    for each, end in zip(controls, ends, strict=True):
        each.call, each.place = call, end - each.size - 1
    return call, True
