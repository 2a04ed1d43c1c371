"""Hyperparameters that parts were given after runs had been begun with them."""

from ml_collections import ConfigDict

__all__ = ['LATER', 'complete']

# {part of a config: {its name: {key: what it was before there was one}}}.
LATER: dict[str, dict[str, dict[str, object]]] = {
  'collect': {
    'best_of': {'judge': ''},
    'best_vs_worst': {'noise': 0.0},
    'oracle': {'slips': 0.0},
    'question_free': {'share': 1.0},
    'oracle_and_rollouts': {'trust': False},
  },
  'contrastive': {'carft': {'annotation': 'own'}},
  'task': {'formats': {'prune': 0.0, 'spelled': False}},
  'token_rewards': {'fine_grained': {'at_end': 0.0}},
}


def complete(config: ConfigDict) -> None:
  """Gives a saved config what its parts have been given since."""
  for name, parts in LATER.items():
    part = config.get(name, {})
    for key, value in parts.get(part.get('name', ''), {}).items():
      part[key] = part.get(key, value)
