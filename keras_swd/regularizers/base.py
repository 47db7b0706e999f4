"""The frame of all methods that prune by regularization."""

import inspect
import zlib
from collections.abc import Hashable, Sequence

import keras
import numpy as np
from keras import ops

from keras_swd.allocation import Allocation
from keras_swd.arguments import check_sparsity
from keras_swd.backend.held import Held
from keras_swd.criteria import Magnitude
from keras_swd.granularity import Granularity, Unstructured
from keras_swd.references import serialize
from keras_swd.regularizers.controls import Controls
from keras_swd.regularizers.part import OptimizerPart
from keras_swd.regularizers.plan import Plan
from keras_swd.regularizers.selectors import ControlSlice
from keras_swd.schedules import Exponential, Schedule

#: Arguments that are objects.
PARTS = ("granularity", "criterion")


class PruningRegularizer(keras.regularizers.Regularizer, keras.layers.Layer):
    """How a kernel is penalized: the base of all pruning regularizers.

    A subclass says what the penalty of a kernel is, in
    `penalty(values, strength, select, controls)`, and without a scheduler in
    `__call__(values)`; `PruningScheduler` says how hard (`strength`) and which
    units (`controls`) at every step. Both come from `Controls`: the strength,
    and a vector of what selects the units of each kernel that this instance
    regularizes in a model. One instance may serve many layers, and many
    models.

    It is a `Layer` too, because Keras carries state into compiled steps for
    layers alone. It has no weights, and saves nothing but a selection that
    was made for good.

    Args:
        sparsity: Float in [0, 1), the target of the kernels that hold this
            instance. `None` leaves them to the scheduler's target, shared
            with the other kernels that have none. Defaults to `None`.
        granularity: A `Granularity`, which entries go together. Defaults to
            `Unstructured()`.
        criterion: What a weight is worth, a function of a kernel's values made
            of `keras.ops`; for a model to be loaded again it must be
            registered with Keras. Defaults to `Magnitude()`.

    Raises:
        ValueError: If `sparsity` lies outside [0, 1), or contradicts the
            granularity's own.
    """

    #: Whether units are selected once in a run, at `pick_at` of its plan.
    selects_once = False
    #: Whether `with_regularizer` also places it on shifts, as `beta`. They are
    #: removed with their scales either way.
    shifts = True
    #: What the method does in the optimizer, if it needs gradients.
    part: type[OptimizerPart] | None = None
    #: How kernels share a target, if the method says so itself.
    allocation: Allocation | None = None
    #: The strength as a function of progress, unless the scheduler says.
    schedule: Schedule = Exponential(0.1, 5e3, finish=0.8)

    def __init__(
        self,
        sparsity: float | None = None,
        granularity: Granularity | None = None,
        criterion=None,
    ):
        keras.layers.Layer.__init__(self)
        self.sparsity = None if sparsity is None else check_sparsity(sparsity)
        self.granularity = (
            Unstructured() if granularity is None else granularity
        )
        self.criterion = Magnitude() if criterion is None else criterion
        # Compiled functions are found again by what they were made for.
        serves = callable(self.criterion) and not inspect.isclass(criterion)
        if not serves or not isinstance(self.criterion, Hashable):
            raise ValueError(
                "Argument `criterion` must be a function of a kernel's values "
                "that can be hashed, e.g. keras_swd.Magnitude() (a data class "
                f"needs `frozen=True`). Received: criterion={criterion!r}."
            )
        if not isinstance(self.granularity, Granularity):
            raise ValueError(
                "Argument `granularity` must be a keras_swd granularity, e.g. "
                "keras_swd.Channel(axis=-1). "
                f"Received: granularity={granularity!r}."
            )
        fixed = self.granularity.fixed_sparsity
        if fixed is not None:
            if self.sparsity not in (None, fixed):
                raise ValueError(
                    f"Argument `sparsity` must be None or {fixed} with "
                    f"granularity {self.granularity!r}, which fixes it. "
                    f"Received: sparsity={sparsity}."
                )
            self.sparsity = fixed
        #: What was attached, each for the kernels of one model.
        self.attached: list[Controls] = []
        self.held: list[Held] = []
        #: Units selected for good, one bit each, by their set's place in the
        #: model that is trained.
        self.chosen_for_good: dict[int, np.ndarray] = {}
        self.built = True

    def quantize(self, mode=None, type_check=True, config=None):
        """Says why `model.quantize` passes over the layer that carries it."""
        del mode, type_check, config
        raise NotImplementedError(
            f"A layer that carries {type(self).__name__} is not quantized, "
            "but stays as it is. Call `keras_swd.strip(model)` first, and "
            "quantize the model that it returns."
        )

    def scores(self, values: np.ndarray) -> np.ndarray:
        """Returns what each value is worth, in NumPy.

        Args:
            values: Float array.

        Returns:
            Float array of the same shape.
        """
        scores = self.criterion(values)
        if isinstance(scores, np.ndarray):
            # Selection reorders what it is given, and `values` may be weights.
            shared = np.may_share_memory(scores, values)
            return scores.copy() if shared else scores
        return ops.convert_to_numpy(scores)

    def __call__(self, values):
        """Returns the penalty of a kernel where no scheduler selects.

        Args:
            values: Float tensor of the kernel's shape.

        Returns:
            Float scalar tensor, in the type of `keras.config.floatx()`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `__call__(values)`."
        )

    def penalty(self, values, strength, select, controls):
        """Returns the penalty of one kernel.

        By default nothing is selected, and it is that of `__call__`.

        Args:
            values: Float tensor of the kernel's shape.
            strength: Float scalar, how hard selected units are penalized.
            select: A `Selector`; `select(values, controls)` is true where
                entries are selected.
            controls: Float tensor, what the scheduler set for this kernel.

        Returns:
            Float scalar tensor, in the type of `keras.config.floatx()`.
        """
        del strength, select, controls
        return self(values)

    def decay(self, strength: float) -> float:
        """Returns the penalty's gradient at a selected weight, over its value.

        The scheduler forecasts from it how far selected weights will go. 0,
        the default, says that the penalty drives no selected weight down.

        Args:
            strength: Float, how hard selected units are penalized.

        Returns:
            Float.
        """
        del strength
        return 0.0

    def plan(
        self,
        schedule: Schedule | None,
        total_steps: int,
        remove_at: float | None,
    ) -> Plan:
        """Returns how this method goes through a run.

        Args:
            schedule: The scheduler's `Schedule`, or None: the method's.
            total_steps: Integer, the number of steps of the whole run.
            remove_at: Float in (0, 1], the progress at which the user wants
                selected units to become zero, or None.

        Returns:
            A `Plan`: the strength follows the schedule, units are selected
            anew at every step and removed at the end, unless the user wants it
            sooner.
        """
        del total_steps
        return Plan(
            schedule or self.schedule, 1.0 if remove_at is None else remove_at
        )

    def attach(
        self,
        kernels: Sequence[keras.Variable],
        uses: Sequence[ControlSlice],
        model: keras.Model,
    ) -> tuple[Controls, bool]:
        """Gives each kernel a view of this instance, with its own controls.

        Args:
            kernels: Variables of the model whose `regularizer` is this instance
                or a view of it.
            uses: Which controls each of them reads, and how.
            model: The model that is about to train.

        Returns:
            The `Controls` of these kernels, and whether they are new to the
            model, so that steps it compiled before must be compiled again.
        """
        self._let_go()
        size = max(use.end for use in uses)
        views = [kernel.regularizer for kernel in kernels]
        controls = getattr(views[0], "controls", None)
        if (
            controls not in self.attached
            or controls.size != size
            or any(
                getattr(view, "controls", None) is not controls
                or view.use != use
                for view, use in zip(views, uses, strict=True)
            )
        ):
            controls = Controls(size, self._free_name(kernels[0]))
            self.attached.append(controls)
            self.held.extend([controls.strength, controls.selection])
            for kernel, use in zip(kernels, uses, strict=True):
                kernel.regularizer = KernelView(self, controls, use)
        if not controls.strength.is_seen_by(model):
            raise ValueError(
                f"Kernel {kernels[0].path!r} carries a regularizer that no "
                "layer holds, so steps that JAX compiles do not see it change. "
                "Keep it in an attribute of the layer, such as "
                "`self.kernel_regularizer`."
            )
        new = model not in controls.models
        controls.models.add(model)
        return controls, new

    def _free_name(self, kernel: keras.Variable) -> str:
        """A name for the controls of a kernel, and of others with it."""
        # Not its path: a `LayoutMap` would take them for kernels.
        stem = f"pruning_{zlib.crc32(kernel.path.encode()):08x}"
        # Another model may have a kernel of the same path.
        taken = {each.name for each in self.attached}
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        return name

    def _let_go(self) -> None:
        """Forgets what is held for models that are no more."""
        for controls in [each for each in self.attached if not each.models]:
            self.attached.remove(controls)
            self.held.remove(controls.strength)
            self.held.remove(controls.selection)

    def save_own_variables(self, store) -> None:
        """Saves what progress and weights do not give again."""
        for place, bits in self.chosen_for_good.items():
            store[str(place)] = bits

    def load_own_variables(self, store) -> None:
        """Loads what was saved; a file may come from a plain model."""
        self.chosen_for_good = {
            int(place): np.asarray(store[place]) for place in store.keys()
        }

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {
            "sparsity": self.sparsity,
            "granularity": serialize(self.granularity),
            "criterion": serialize(self.criterion),
        }

    @classmethod
    def from_config(cls, config: dict):
        """Builds a regularizer from what `get_config()` returned."""
        config = dict(config)
        for name in PARTS:
            if isinstance(config.get(name), dict):
                part = keras.saving.deserialize_keras_object(config[name])
                config[name] = part
        return cls(**config)


class KernelView(keras.regularizers.Regularizer):
    """A pruning regularizer as one kernel sees it, with its own controls.

    A regularizer is called with a kernel's values and cannot tell which
    kernel they belong to; the kernel's variable therefore holds this view.

    Args:
        instance: The `PruningRegularizer`.
        controls: The `Controls` that hold the kernel's.
        use: The `ControlSlice` that says where.
    """

    def __init__(
        self,
        instance: PruningRegularizer,
        controls: Controls,
        use: ControlSlice,
    ):
        self.instance = instance
        self.controls = controls
        self.use = use

    def __call__(self, values):
        """Returns the penalty of the kernel at the present controls."""
        use = self.use
        strength, controls = self.controls.tensors(use.start, use.end)
        return self.instance.penalty(values, strength, use.select, controls)

    def get_config(self) -> dict:
        """Returns the instance's constructor arguments."""
        return self.instance.get_config()


def pruning_regularizer(variable: keras.Variable) -> PruningRegularizer | None:
    """Returns the pruning regularizer that a variable carries, if any.

    Keras gives the factors of low-rank adaptation the regularizer of their
    kernel. They do not count: zeros in a factor are none in the kernel.
    """
    if is_adaptation(variable):
        return None
    regularizer = variable.regularizer
    if isinstance(regularizer, KernelView):
        return regularizer.instance
    return regularizer if isinstance(regularizer, PruningRegularizer) else None


def is_adaptation(variable: keras.Variable) -> bool:
    """Whether a variable is a factor of what Keras' LoRA adds to a kernel."""
    return variable.name.startswith("lora_")
