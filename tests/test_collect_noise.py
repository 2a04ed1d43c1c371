"""Demonstrations some of which are wrong: whole answers, or tokens of them."""

import numpy as np
from test_collect import PROBLEMS, gold, prompts_of, run, texts


def test_oracle_noise_is_the_answer_before():
  for noise, shuffled in ((0.0, False), (0.5, False), (0.0, True)):
    batch, _ = run('oracle', noise=noise, shuffled=shuffled)
    prompts = prompts_of(batch, 1)
    own = batch.extras['scores'].astype(bool)
    expected = [gold(prompts[i if own[i] else i - 1]) for i in range(PROBLEMS)]
    assert [row[2] for row in texts(batch)] == expected
    share = {0.0: 1 - shuffled, 0.5: own.mean()}[noise]
    assert own.mean() == share
  assert 0 < np.mean([run('oracle', i, noise=0.5)[0].extras['scores'].mean()
                      for i in range(3)]) < 1  # fmt: skip


def test_slips_are_tokens_of_the_answer_before_at_their_place():
  """Where both answers go on: neither lengths nor ends change."""
  digits = lambda text: len(text.removesuffix('<eos>'))
  slipped = {}
  for share in (0.0, 0.5, 1.0):
    found = []
    for seed in range(3):
      batch, _ = run('oracle', seed, slips=share)
      clean = [gold(prompt) for prompt in prompts_of(batch, 1)]
      for i, (_, text, counted) in enumerate(texts(batch)):
        mine, other = clean[i], clean[i - 1]
        both = min(digits(mine), digits(other))
        assert counted == text and text[both:] == mine[both:]
        changed = [x != y for x, y in zip(text, mine)]
        assert all(text[k] == other[k] for k, x in enumerate(changed) if x)
        assert share < 1.0 or text[:both] == other[:both]
        assert batch.extras['scores'][i] == (text == mine)
        found.append(sum(changed))
    slipped[share] = sum(found)
  assert 0 == slipped[0.0] < slipped[0.5] < slipped[1.0]
