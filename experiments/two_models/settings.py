"""Task, arms and sizes of the study of second models: all that is fixed."""

import dataclasses

# Three letters of ten: 200 of a thousand texts are names, and demonstrations
# are drawn evenly from them. The prompt is always the same.
NAMES = dict(
  name='catalogue', items=200, name_length=3, letters=10, groups=1, zipf=0.0
)  # fmt: skip
TRIES = 64  # that different names are counted in
RATE = 'optimizer.lr'
PENALTY = 'kl.coef'
# Shares of right answers that are so close are as good: the lowest of their
# rates is taken.
CLOSE = 0.01
# Temperatures that SFT is drawn at, to be right more often for nothing.
HEATS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
DEMOS = 64  # demonstrations that SFT, or the adversary, reads in a step
PROMPTS, GROUP = 16, 8  # problems of a step of PPO, and answers to each


@dataclasses.dataclass(frozen=True)
class Way:
  """How an arm learns.

  kind     of `rewards/adversary`; '' has none: SFT
  penalty  nats of KL to the start that an answer loses, times this
  """

  label: str
  family: str
  kind: str = ''
  penalty: float = 0.0


WAYS = {
  'sft': Way('Forward KL: SFT', 'sft'),
  'reverse': Way('Reverse KL: log D - log(1 - D)', 'rl', 'logit'),
  'rlgaf': Way('RLGAF: logit and KL 0.05', 'rl', 'logit', 0.05),
}
# {optimum of: label}, for a policy that can be no more than so good.
EXACT = {
  'exact_forward': 'Exact: forward KL',
  'exact_js': 'Exact: Jensen-Shannon',
  'exact_reverse': 'Exact: reverse KL',
}


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  first_seed   of the study; every seed has a base of its own
  tune_seeds   rates are chosen with; `places` cells of a grid share a program
  base_rows    of a step of SFT, `base_steps` of them
  first_steps  of the adversary before the policy moves
  turns        of adversary (`judge_steps`) and policy (`steps`)
  judge_rate   of the adversary
  exact_steps  of Adam, in the exact comparison
  grid         of learning rates, one for all arms, which grows at most `extend`
               times at each end
  """

  seeds: int
  preset: str
  base_rows: int
  base_steps: int
  first_steps: int
  turns: int
  judge_steps: int
  steps: int
  judge_rate: float
  exact_steps: int
  grid: tuple[float, ...]
  extend: int
  places: int
  arms: tuple[str, ...] = tuple(WAYS)
  first_seed: int = 200
  tune_seeds: tuple[int, ...] = (100, 101)

  @property
  def sft_steps(self) -> int:
    """As many demonstrations as the adversary reads."""
    return self.first_steps + self.turns * self.judge_steps


SCALES = {
  'full': Scale(
    seeds=8, preset='depth-1', base_rows=128, base_steps=200, first_steps=1000,
    turns=4, judge_steps=25, steps=20, judge_rate=1e-3,
    exact_steps=3000, grid=(1e-4, 3e-4, 1e-3, 3e-3), extend=1, places=4,
  ),
  'reduced': Scale(
    seeds=2, preset='depth-1', base_rows=32, base_steps=20, first_steps=4,
    turns=2, judge_steps=2, steps=2, judge_rate=3e-3,
    exact_steps=100, grid=(1e-3, 3e-3), extend=0, places=1,
  ),
}  # fmt: skip
