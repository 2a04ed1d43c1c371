r"""Does SFT generalise once its prompts are diverse and it thinks aloud?

  python -m experiments.sft_generalisation.run             # full: 1:30 h
  python -m experiments.sft_generalisation.run --reduced   # minutes

make-24 and Sokoban, with fixed and diverse prompts, with and without thoughts.
README.md has the question and the reading, design.py the settings and claims.
"""

import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from configs import sft
from experiments.sft_generalisation import design
from posttrain_jax import lab, rollout, tasks
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib
from posttrain_jax.tasks import split, vocab

# What a part of a verdict is called here.
SAID = {
  'reward': 'right', 'format': 'format', 'other_rule': 'parrot',
  'other_moves': 'parrot', 'other_cards': 'cards',
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Answers:
  """Greedy answers to several tasks: shares that are right, and as trained.

  tasks  (name, task), all of them answered in one batch

  Of each task: 'NAME_right', 'NAME_format', and where it has an `other_rule` or
  `other_moves`, which is what was trained on, 'NAME_parrot' (right if that
  held) and, of cards, 'NAME_cards' (made of what they count there). And
  'thought', the share of answers after a '>'.
  """

  model: ModelConfig
  tasks: tuple[tuple[str, Any], ...]
  num_problems: int

  def __call__(
    self, params: PyTree, base_params: PyTree | None, key: Array
  ) -> dict[str, Array]:
    del base_params
    width = max(task.prompt_length for _, task in self.tasks)
    length = max(task.completion_length for _, task in self.tasks)
    parts = []
    for index, (_, task) in enumerate(self.tasks):
      own = jax.random.fold_in(key, index)
      parts.append(
        split.sample_batch(
          task, own, self.num_problems, heldout=False, fraction=0.0
        )
      )
    wide = lambda x: jnp.pad(x, ((0, 0), (0, width - x.shape[1])))
    samples = rollout.generate(
      params,
      self.model,
      jnp.concatenate([wide(part.prompt) for part in parts]),
      jnp.concatenate([wide(part.prompt_mask) for part in parts]),
      key,
      group_size=1,
      max_new_tokens=length,
      decoder=decoders.greedy,
      eos_id=vocab.EOS,
      pad_id=vocab.PAD,
    )
    shape = (len(parts), self.num_problems, length)
    said = samples.completion.reshape(shape)
    mask = samples.mask.reshape(shape)
    found = {'thought': jnp.mean(jnp.any(said == vocab.token('>'), axis=2))}
    for index, (name, task) in enumerate(self.tasks):
      verdict = jax.vmap(task.verify)(parts[index], said[index], mask[index])
      found |= {
        f'{name}_{SAID[k]}': jnp.mean(x)
        for k, x in verdict.items()
        if k in SAID
      }
    return found


def mixture(parts: dict[str, dict]) -> ml_collections.ConfigDict:
  """Config entry of tasks in equal shares."""
  entries = {
    name: {**tasks.defaults(**knobs), 'weight': 1.0}
    for name, knobs in parts.items()
  }
  return ml_collections.ConfigDict({'name': 'mixture', 'parts': entries})


def _shared(config: Any) -> Any:
  config.model.preset = 'pico'
  config.heldout_fraction = 0.0
  config.steps_per_call = 20
  config.eval.num_problems = 0
  return config


def base_config(scale: design.Scale) -> Any:
  """SFT on games without instructions, and on a few with many rules."""
  config = sft.get_config()
  config.task = mixture(design.base_parts())
  config.num_steps = scale.base_steps
  config.prompts_per_step = scale.base_rows
  config.optimizer.lr = 3e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_updates = 20
  return _shared(config)


def _spec(way: design.Way) -> str:
  return f'configs/{way.family}.py:recipe={way.recipe}'


def arm_config(way: design.Way, scale: design.Scale) -> Any:
  """Both games at once, half of the problems each."""
  config = config_lib.load(_spec(way))
  rules = {
    'make24': design.DIVERSE_RULES if way.diverse else '',
    'sokoban': design.DIVERSE_MOVES if way.diverse else '',
  }
  config.task = mixture(
    {
      name: design.game(name, 'same', way.thought, rules[name])
      for name in design.GAMES
    }
  )
  config.num_steps = scale.steps
  group = 8 if way.family == 'rl' else 1
  config.group_size = group
  config.prompts_per_step = scale.rows // group
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 0
  return _shared(config)


class Judge:
  """Measures stages on every split of both games."""

  def __init__(self, runs: lab.Lab, base: lab.Trained, scale: design.Scale):
    self._lab = runs
    # Room to think, for all arms: those that do not think do not take it.
    asked = tuple(
      (f'{game}_{where}', tasks.make(**design.game(game, where, True)))
      for game in design.GAMES
      for where in design.SPLITS
    )
    model = build.build(base.config).model
    self._probe = Answers(model, asked, scale.problems)

  def found(
    self, stage: lab.Trained, split: str = 'test'
  ) -> dict[str, np.ndarray]:
    """What `Answers` says, of each seed, in %."""
    found = self._lab.measure(stage, self._probe, split=split)
    return {name: 100.0 * np.asarray(x, float) for name, x in found.items()}

  def validation(self, stage: lab.Trained) -> float:
    """Accuracy under the training rule, on other problems: for choices."""
    found = self.found(stage, 'validation')
    return float(np.mean([found[f'{x}_same_right'] for x in design.GAMES]))

  def values(self, stage: lab.Trained) -> dict[str, np.ndarray]:
    """All measures of a stage."""
    found = self.found(stage)
    mean = lambda name: np.mean(
      [found[f'{game}_{name}'] for game in design.GAMES], axis=0
    )
    values = {where: mean(f'{where}_right') for where in design.SPLITS}
    values['lost'] = values['same'] - values['rule']
    values['shifted'] = np.mean(
      [values[where] for where in ('rule', 'hard', 'both')], axis=0
    )
    values['parrot'] = mean('rule_parrot')
    values['cards'] = found['make24_rule_cards']
    values['thought'] = found['thought']
    for game in design.GAMES:
      for where in design.SPLITS:
        values[f'{game}_{where}'] = found[f'{game}_{where}_right']
    return values


def make_arm(
  runs: lab.Lab, judge: Judge, base: lab.Trained, name: str,
  scale: design.Scale,
) -> lab.Arm:  # fmt: skip
  """An arm at the learning rate that is best for the training rule."""
  way = design.WAYS[name]
  config = arm_config(way, scale)
  rates = scale.rl_rates if way.family == 'rl' else scale.sft_rates
  stages = {
    rate: runs.train(name, config, base, {'optimizer.lr': rate})
    for rate in rates
  }
  chosen = lab.best(stages, judge.validation)
  return lab.Arm(
    label=way.label,
    family=way.family,
    config=_spec(way),
    overrides={
      'task.face_cards': design.DIVERSE_RULES if way.diverse else '7,7,7',
      'task.moves': design.DIVERSE_MOVES if way.diverse else 'udlr',
      'task.chain_of_thought': way.thought,
    },
    values=judge.values(stages[chosen]),
    account=lab.total_account([stages[chosen]]),
    tuned={'optimizer.lr': {'grid': list(rates), 'chosen': chosen}},
  )


def run(runs: lab.Lab, scale: design.Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  base = runs.train('base', base_config(scale))
  judge = Judge(runs, base, scale)
  arms = {
    'base': lab.Arm(
      label='The base', family='base', config='configs/sft.py:recipe=sft',
      overrides={}, values=judge.values(base),
      account=lab.total_account([base]),
    )
  }  # fmt: skip
  for name in scale.arms:
    arms[name] = make_arm(runs, judge, base, name, scale)
  return design.STUDY, arms, figures(arms), []


def figures(arms: dict[str, lab.Arm]) -> list[dict[str, Any]]:
  """The grid of games and splits, the shifts side by side, the parrots."""
  columns = [(game, where) for game in design.GAMES for where in design.SPLITS]
  return [
    {
      'kind': 'heatmap', 'name': 'grid', 'title': 'Every arm on every shift',
      'rows': [arm.label for arm in arms.values()],
      'columns': [
        f'{design.LABELS[game]}: {design.SPLITS[where]}'
        for game, where in columns
      ],
      'values': [
        [round(float(np.mean(arm.values[f'{game}_{where}'])), 1)
         for game, where in columns]
        for arm in arms.values()
      ],
      'low': 0, 'high': 100, 'unit': '%', 'xlabel': 'game and test',
      'ylabel': 'arm', 'caption': 'Greedy accuracy, mean over seeds.',
    },
    {
      'kind': 'bars', 'name': 'shifts', 'title': 'Three shifts',
      'measures': ['rule', 'hard', 'both'],
      'caption': 'Mean of both games. Unseen rules; harder problems under the '
                 'training rule; harder problems under unseen rules.',
    },
    {
      'kind': 'bars', 'name': 'parrots', 'title': 'Answers to another question',
      'measures': ['parrot', 'cards'],
      'caption': 'Under unseen rules. Left: answers that are right if the '
                 'training rule held, mean of both games. Right: Make-12 '
                 'answers that use the cards as the training rule counts them, '
                 'right or wrong.',
    },
  ]  # fmt: skip


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, design.SCALES))
