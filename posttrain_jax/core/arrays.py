"""Every array that a method can ask for by name: the one table.

A method names what it needs as parameters (`losses`, `token_weights`, ...).
Whoever wires it up looks here for its shape and for who makes it:

  rows    it came with the rows: names of `collect`, or 'data:KIND' of a file
  model   a role scores the rows once a step, before the update: 'policy' is the
          policy as it was, 'ref' the reference, others are of `config.others`
  update  made from the trained parameters, in the loss itself
  rl      made by the RL learner from its rollouts; 'rl:TERM' says for which
          part of its objective, and stands beside other makers too
  pair    made from the two rows of a pair, by the preference trainer
  room    an argument of the room's own signature

B rows (or pairs), T tokens, V vocabulary, D features, S segments; '' is no
array of floats. `core.shapes` holds calls to these shapes.
"""

from typing import NamedTuple

__all__ = [
  'ARRAYS',
  'Named',
  'from_rows',
  'inside_update',
  'needs',
  'of_learner',
  'of_pair',
  'scored_by',
  'shape',
]


class Named(NamedTuple):
  """One array.

  shape  'BT', 'B', 'BTV', 'BD', or '' for a key, rows or parameters
  maker  one of the kinds above
  by     the sources or the role of that kind
  needs  what it means to need it, as the page of objectives says it
  """

  shape: str
  maker: str
  by: tuple[str, ...] = ()
  needs: tuple[str, ...] = ()


_PAIRED = (
  'best_of',
  'best_vs_worst',
  'oracle',
  'oracle_vs_rollout',
  'principle_pairs',
  'question_free',
  'retries',
)
_JUDGED = ('feedback', 'labelled', 'oracle_and_rollouts', 'rollouts')
_REFERENCE, _OLD = ('reference policy',), ('old policy',)
_VOCABULARY = ('whole vocabulary',)
_VERDICT = ('rollouts', 'rewards')
_MARKED = ('data:unpaired', 'rl:weights', 'rl:contrastive')

ARRAYS = {
  # With the rows
  'scores': Named('B', 'rows', (*_PAIRED, *_JUDGED), ('rewards',)),
  'correct': Named('B', 'rows', (*_JUDGED, *_MARKED), _VERDICT),
  'correct_rate': Named('B', 'rows', _JUDGED, ('rollouts',)),
  'negative': Named('BT', 'rows', _JUDGED),
  'expert': Named('B', 'rows', ('oracle_and_rollouts',), ('rollouts',)),
  'whole': Named('B', 'rows', ('rollouts',)),
  'critical': Named('BT', 'rows', ('counterfactual',)),
  'changed': Named('BT', 'rows', ('oracle_with_wrong',)),
  'keys': Named('BT', 'rows', ('oracle_with_wrong',)),
  'wrong_changed': Named('BT', 'rows', ('oracle_with_wrong',)),
  'wrong': Named('', 'rows', ('oracle_with_wrong',)),
  'mismatched': Named('', 'rows', ('labelled', 'data:unpaired')),
  # Scored once a step, before the update
  'base_logps': Named('BT', 'model', ('base',)),
  'history_logps': Named('BT', 'model', ('ref',)),
  'old_logps': Named('BT', 'model', ('policy',), _OLD),
  'proximal_logps': Named('BT', 'model', ('policy', 'rl:loss'), _OLD),
  'ref_logps': Named('BT', 'model', ('ref',), _REFERENCE),
  'ref_scores': Named('B', 'model', ('teacher',)),
  'shuffled_logps': Named('BT', 'model', ('shuffled',)),
  # In the loss
  'key': Named('', 'update'),
  'ref_logits': Named('BTV', 'update', ('ref',), _REFERENCE),
  'tokens': Named('BT', 'update'),
  'wrong_logps': Named('BT', 'update', ('policy',)),
  # Of RL's learner
  'stop_logps': Named('BT', 'rl', ('rl:loss',)),
  'state_log_rewards': Named('BT', 'rl', ('rl:loss',), ('rewards',)),
  'log_rewards': Named('B', 'rl', ('rl:loss',), ('rewards',)),
  'greedy_rewards': Named('B', 'rl', ('rl:advantage',), ('rewards',)),
  # Of a pair, made from its rows
  'chosen_collision': Named('BT', 'pair', ('collision',), _VOCABULARY),
  'chosen_rewards': Named('B', 'pair', ('rewards',), ('pairs',)),
  'label_prob': Named('B', 'pair', ('strength',), ('rewards',)),
  'rejected_collision': Named('BT', 'pair', ('collision',), _VOCABULARY),
  'rejected_rewards': Named('B', 'pair', ('rewards',), ('pairs',)),
  'strength': Named('B', 'pair', ('strength',), ('rewards',)),
  # Arguments of a room
  'advantages': Named('BT', 'room', (), ('rewards',)),
  'anchors': Named('BD', 'room', (), ('hidden states',)),
  'chosen': Named('', 'room', (), ('pairs',)),
  'delta': Named('B', 'room'),
  'desirable': Named('B', 'room', (), ('labels',)),
  'ends': Named('BS', 'room'),
  'entropy': Named('BT', 'room', (), ('entropy',)),
  'gaps': Named('B', 'room', (), ('value head', 'pairs')),
  'hidden': Named('BD', 'room', (), ('hidden states',)),
  'log_flows': Named('BT', 'room', (), ('value head',)),
  'logits': Named('BTV', 'room', (), ('whole vocabulary',)),
  'logps': Named('BT', 'room'),
  'margin': Named('B', 'room'),
  'mask': Named('BT', 'room'),
  'old_values': Named('BT', 'room', (), ('value head',)),
  'is_top': Named('BT', 'room'),
  'positives': Named('BD', 'room', (), ('hidden states',)),
  'ref_answers': Named('B', 'room', (), _REFERENCE),
  'ref_chosen': Named('', 'room', (), _REFERENCE),
  'ref_mismatched': Named('B', 'room', (), _REFERENCE),
  'ref_rejected': Named('', 'room', (), _REFERENCE),
  'rejected': Named('', 'room', (), ('pairs',)),
  'rejected_anchors': Named('BD', 'room', (), ('pairs',)),
  'returns': Named('BT', 'room', (), ('rewards',)),
  'rewards': Named('B', 'room', (), ('rewards',)),
  'start': Named('B', 'room'),
  'start_params': Named('', 'room', (), _REFERENCE),
  'student_logits': Named('BTV', 'room', (), ('whole vocabulary',)),
  'success': Named('BS', 'room', (), ('rewards',)),
  'targets': Named('B', 'room', (), ('labels',)),
  'teacher_logits': Named('BTV', 'room', (), ('teacher',)),
  'token_rewards': Named('BT', 'room', (), ('rewards',)),
  'values': Named('BT', 'room', (), ('value head',)),
  'values_after': Named('BT', 'room', (), ('value head',)),
}


def _of(maker: str) -> dict[str, Named]:
  return {name: x for name, x in ARRAYS.items() if x.maker == maker}


def from_rows(source: str) -> tuple[str, ...]:
  """Arrays with the rows of a source: of `collect`, or 'data:KIND'."""
  return tuple(name for name, x in _of('rows').items() if source in x.by)


def scored_by() -> dict[str, str]:
  """{array: the role whose model scores it}, of all made before the update."""
  return {name: x.by[0] for name, x in _of('model').items()}


def inside_update() -> tuple[str, ...]:
  """Arrays that are made from the trained parameters, in the loss."""
  return tuple(_of('update'))


def of_pair(what: str) -> tuple[str, ...]:
  """Arrays of a pair that are made from its rows' 'rewards' (or scores), their
  'strength', or the 'collision' of its tokens."""
  return tuple(name for name, x in _of('pair').items() if what in x.by)


def of_learner(term: str) -> tuple[str, ...]:
  """Arrays that RL's learner makes for a term of its objective: 'loss',
  'weights', 'contrastive' or 'advantage'."""
  return tuple(name for name, x in ARRAYS.items() if f'rl:{term}' in x.by)


def shape(name: str) -> str:
  """The shape of an array; one that nobody named is a number a token."""
  return ARRAYS[name].shape if name in ARRAYS else 'BT'


def needs(name: str) -> tuple[str, ...]:
  """What it means to need an array, as the page of objectives says it."""
  return ARRAYS[name].needs if name in ARRAYS else ()
