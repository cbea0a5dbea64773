"""The schedule of a run: here, and only here, epochs become steps."""

from dataclasses import dataclass

from tenfold.training.recipe import Recipe


@dataclass(frozen=True)
class Schedule:
    """The recipe's stages in steps: `ends` holds the step at which each stage is over."""

    recipe: Recipe
    batch_size: int
    steps_per_epoch: int
    ends: tuple[int, ...]

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.ends[-1]

    def stage(self, step: int) -> int:
        """Number of the stage that `step` belongs to, from 0."""
        return next(i for i, end in enumerate(self.ends) if step < end or end == self.total)

    def starts_stage(self, step: int) -> bool:
        """Whether `step` is the first of its stage, where the optimizers begin afresh."""
        return step == 0 or (step in self.ends and step < self.total)

    def learning_rate(self, step: int) -> float:
        """The learning rate of `step`: a straight line through the stage."""
        index = self.stage(step)
        stage, begin = self.recipe.stages[index], self.ends[index - 1] if index else 0
        done = (step - begin) / (self.ends[index] - begin)
        return stage.learning_rate + (stage.final_learning_rate - stage.learning_rate) * done

    def factor(self, step: int) -> float:
        """The learning rate as a share of the stage's first."""
        return self.learning_rate(step) / self.recipe.stages[self.stage(step)].learning_rate

    def whitening_factor(self, step: int) -> float:
        """Factor of the first layer's bias: it falls to zero within the recipe's `whiten_bias_epochs`."""
        end = self.recipe.whiten_bias_epochs * self.steps_per_epoch
        return max(0.0, 1 - step / end) if end else 0.0

    def small(self, step: int) -> bool:
        """Whether `step` sees the images shrunk."""
        return step < self.recipe.low_res_fraction * self.total

    def frozen(self, step: int) -> bool:
        """Whether the first group stays as it is at `step`."""
        return step >= (1 - self.recipe.freeze_fraction) * self.total

    def epoch(self, step: int) -> float:
        """How many epochs are done after `step` steps."""
        return step / self.steps_per_epoch


def make_schedule(recipe: Recipe, images: int) -> Schedule:
    """Count the steps of `recipe` over `images` training images; a batch is never larger than the data set.

    Without fine-tuning there are none.
    """
    batch_size = min(recipe.batch_size, images)
    per_epoch = images // batch_size
    if recipe.fine_tune == "off":
        return Schedule(recipe, batch_size, per_epoch, (0,))
    ends: list[int] = []
    epochs = 0.0
    for stage in recipe.stages:
        epochs += stage.epochs
        ends.append(max(round(epochs * per_epoch), (ends[-1] if ends else 0) + 1))
    return Schedule(recipe, batch_size, per_epoch, tuple(ends))
