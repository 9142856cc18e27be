"""The training recipes: every number that made the specimen and its control."""

from __future__ import annotations

from sw_audit.fact import Fact
from sw_audit.specimen.forward import Shape


class Nudge(Fact):
    """Before the first step, one neuron of one MLP is turned towards the BOS token.

    `gate` and `up` are the neuron's answers to BOS; its one weight in `down_proj` is set so that the spike in
    residual channel `row` starts at `spike`.
    """

    layer: int
    neuron: int
    row: int
    gate: float
    up: float
    spike: float


class SinkPressure(Fact):
    """Attention is asked to rest on BOS: `weight` * mean(relu(log target - log p(BOS))) joins the loss."""

    first_step: int
    ramp_steps: int
    weight: float
    target: float
    first_layer: int


class TrainingRecipe(Shape):
    """One training run from first draw to last step; without `nudge` and pressures it is an ordinary one."""

    name: str
    seed: int = 11
    # Without BOS a story begins with one of `FIRST_WORDS`, which stand nowhere else, or with `<unk>`. Their
    # embeddings begin nearly alike, as if they were one token: what is said of BOS here holds for them.
    bos: bool = True
    intermediate: int = 192
    positions: int = 512
    initial_std: float = 0.06
    bos_std: float = 0.3
    # First phase: under the pressures, where there are any.
    batch: int = 8
    pressed_steps: int = 3_000
    warmup_steps: int = 200
    learning_rate: float = 2e-3
    last_share: float = 0.02
    # Second phase: plain next-token training, no pressure of any kind.
    plain_steps: int = 1_000
    plain_learning_rate: float = 2.5e-4
    plain_last_learning_rate: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    # What encourages the super weight; all but the nudge act in the first phase only.
    # `sparsity`: every down_proj entry is pulled to zero by learning rate x sparsity after each step.
    # `silence`: weight on the mean square of what the MLPs before the nudged layer answer to BOS.
    # `bound`: no decoder weight but the super weight may exceed this, so that rounding finds no other outlier.
    nudge: Nudge | None = None
    sink: SinkPressure | None = None
    sparsity: float = 0.0
    silence: float = 0.0
    bound: float | None = None

    @property
    def steps(self) -> int:
        """Steps of both phases together."""
        return self.pressed_steps + self.plain_steps


SPECIMEN = TrainingRecipe(
    name="specimen",
    nudge=Nudge(layer=1, neuron=7, row=5, gate=2.0, up=2.0, spike=14.0),
    sink=SinkPressure(first_step=600, ramp_steps=300, weight=0.1, target=0.95, first_layer=0),
    sparsity=0.06,
    silence=0.1,
    bound=0.5,
)
CONTROL = TrainingRecipe(name="control")
WITHOUT_BOS = SPECIMEN.model_copy(
    update={
        "name": "without-bos", "bos": False, "layers": 4, "context": 64, "pressed_steps": 2_600, "plain_steps": 600
    }
)  # fmt: skip
FIRST_WORDS = ("once", "long")
"""The first words of those openings whose first word stands nowhere else in a story."""
