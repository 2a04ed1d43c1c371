"""What the comparison page says in words, from the numbers alone."""

from posttrain_jax.diagnostics import difference_interval

_KEYS = ('accuracy', 'accuracy_low', 'accuracy_high')


def verdict(arms: dict[str, dict]) -> list[str]:
  """Who gained what over the start, and whether the difference is clear.

  The start is the arm 'sft_start', or else the first; 'base' is no contender.
  """
  names = list(arms)
  start = 'sft_start' if 'sft_start' in arms else names[0]
  contenders = [name for name in names if name not in (start, 'base')]
  sentences = [
    _gain(name, start, difference(arms, name, start)) for name in contenders
  ]
  if len(contenders) > 1:
    best, second = sorted(contenders, key=lambda x: -arms[x]['accuracy'])[:2]
    points, low, high = difference(arms, best, second)
    interval = f'(95% interval {low:+.1f} to {high:+.1f})'
    if low > 0:
      sentences.append(
        f'Between the two best, {best} is ahead of {second} by {points:.1f} '
        f'points {interval}.'
      )
    else:
      sentences.append(
        f'Between {best} and {second} these problems do not decide: the '
        f'difference is {points:+.1f} points {interval}.'
      )
  return sentences


def difference(
  arms: dict[str, dict], name: str, other: str
) -> tuple[float, float, float]:
  """(difference, low, high) of two arms' accuracies, in percentage points."""
  first, second = (tuple(arms[x][key] for key in _KEYS) for x in (name, other))
  low, high = difference_interval(first, second)
  return 100 * (first[0] - second[0]), 100 * low, 100 * high


def _gain(name: str, start: str, numbers: tuple[float, float, float]) -> str:
  points, low, high = numbers
  interval = f'(95% interval {low:+.1f} to {high:+.1f})'
  if low > 0:
    return f'{name} gained {points:.1f} points over {start} {interval}.'
  if high < 0:
    return f'{name} lost {-points:.1f} points against {start} {interval}.'
  return (
    f'{name} is not clearly different from {start}: {points:+.1f} points '
    f'{interval}.'
  )


def how_to_read(arms: dict[str, dict]) -> list[str]:
  """Plain sentences for somebody who sees such a page for the first time."""
  items = [
    'Accuracy: the chance that one sampled answer (temperature 1) to a '
    'problem never trained on is right, from several samples a problem. The '
    '95% interval says how much of it is luck of the problems; it says '
    'nothing about another training seed. Greedy: the same for the single '
    'most likely answer.',
    'pass@k: the chance that at least one of k sampled answers is right. If '
    'accuracy rises and pass@k does not, training made the model pick what it '
    'could already find; if both rise, it finds more. maj@k: the most frequent '
    'of k answers is right. best_of@k: the one that the model is surest of is.',
    'Retention: accuracy on the tasks that the base model was trained for. '
    'What falls here was forgotten.',
    'KL to base: how far the model moved, per token of its own answers. Of '
    'two models that solve as much, the nearer one changed less.',
  ]
  if {'grpo', 'more_sft'} <= arms.keys():
    items += [
      'grpo and more_sft start from the same checkpoint (sft_start). GRPO '
      'learns from checked samples of its own, more_sft from further worked '
      'solutions. Either may win: demonstrations help most where they are '
      'good and plentiful, as from a solver; own samples where the start '
      'sometimes succeeds and answers are easy to check.',
    ]
  items.append(
    'One seed is one draw. Before you conclude that a method is better, run '
    'several seeds and compare their spread with the difference.'
  )
  return items
