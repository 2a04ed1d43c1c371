"""What every value of a config may be: one table, read before a run is built.

A key of the config itself stands in `KEYS`. A hyperparameter of a part
(`loss.beta`) stands in `PARTS`: the most special of 'room/function.name',
'room/name' and 'name' holds. So a new function of a known room needs a line
here only where its hyperparameters have names of their own, or mean something
else. A task says itself which sizes it can make; the type of a knob is that of
its field.

  KEYS['entropy_coef'] = FINITE
  PARTS['decoders/min_p.p'] = SHARE

`run.values` walks a config and asks. Where a recipe means "no clipping", inf
and numbers such as 1e9 are inside.
"""

import math
from typing import Any

from posttrain_jax import collect, tasks, trainers
from posttrain_jax.core.domain import (
  Anything,
  Flag,
  Listed,
  Number,
  Patterns,
  Text,
  Whole,
  Word,
)
from posttrain_jax.core.dtypes import CACHE, FLOATS
from posttrain_jax.data import (
  bad_rows,
  content,
  formats,
  text_task,
  tokenizers,
)
from posttrain_jax.models import remat
from posttrain_jax.models.config import ATTENTIONS, DECODE_WEIGHTS
from posttrain_jax.params import adapters
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import (
  curriculum_domains,
  hybrid_domains,
  inputs,
  notices,
  reward_domains,
)
from posttrain_jax.run.auto import AUTO
from posttrain_jax.run.device_domains import DEVICES
from posttrain_jax.run.optim_domains import OPTIMIZER
from posttrain_jax.tasks import conditioned, second_tries
from posttrain_jax.trainers import guard
from posttrain_jax.trainers.rl import guests, terms

__all__ = ['KEYS', 'PARTS', 'domain_of', 'hyperparameter']

FINITE = Number()
POSITIVE = Number(0, above=True)
NOT_NEGATIVE = Number(0)
SHARE = Number(0, 1)
SOME = Number(0, 1, above=True)  # a share that keeps something
COUNT = Whole(0)
AUTO_COUNT = Whole(0, words=(AUTO,))
ONE_OR_MORE = Whole(1)
# An upper bound; inf bounds nothing.
BOUND = Number(0, also=(math.inf,))
CAP = Number(0, above=True, also=(math.inf,))
# 0: no cap. At 1 or less nothing would be learnt from wrong answers.
RATIO_CAP = Number(1, above=True, also=(0,))
# More than half of the labels wrong would mean the opposite of the data.
LABEL_NOISE = Number(0, 0.5, below=True)
SEED = Whole(0, 2**64 - 1)
WORD_SEED = Whole(0, 2**32 - 1)
TEMPERATURE = Number(
  0, above=True, hint='the most likely token alone is decoder "greedy"'
)
TEXT, FLAG = Text(), Flag()

KEYS = {
  'paradigm': Word(trainers.KINDS),
  'seed': SEED,
  'num_steps': COUNT,
  'steps_per_call': ONE_OR_MORE,
  'on_nonfinite': Word(guard.MODES),
  'watchdog': NOT_NEGATIVE,
  'preemption': Word(notices.SOURCES),
  'init_from': TEXT,
  'tokenizer': TEXT,
  'guides': Anything('rollout.guides'),
  'condition.name': Word(('none', *conditioned.CONDITIONS)),
  'condition.asks': Word(conditioned.ASKS),
  'condition.buckets': Whole(2),
  'condition.degrees': Number(-45, 45, none=True),
  'condition.feedback': Word(second_tries.FEEDBACK),
  'condition.plain': Number(0, 1),
  'condition.share': Number(0, 1),
  'condition.slips': Number(0, 1),
  'condition.tries': Whole(1, 16),
  'condition.wrong': Number(0, 1),
  'model.preset': TEXT,
  'model.sliding_window': COUNT,
  'model.dtype': Word((AUTO, *FLOATS)),
  'model.param_dtype': Word(FLOATS),
  'model.cache_dtype': Word(('', *CACHE)),
  'model.remat': Flag(words=(AUTO, *remat.POLICIES)),
  'model.scan_layers': Flag(words=(AUTO,)),
  'model.scan_decode': Flag(words=(AUTO,)),
  'model.decode_weights': Word(DECODE_WEIGHTS),
  'model.logit_chunk': COUNT,
  'model.attention': Word((AUTO, *ATTENTIONS)),
  'model.attention_chunk': COUNT,
  'model.long_rope': FLAG,
  'prompts_per_step': ONE_OR_MORE,
  'group_size': ONE_OR_MORE,
  'minibatch_rows': COUNT,
  'microbatch_rows': AUTO_COUNT,
  'updates_per_rollout': ONE_OR_MORE,
  **OPTIMIZER,
  'ref.path': TEXT,
  'ref.refresh_every': COUNT,
  'ref.mixup': SHARE,
  **DEVICES,
  'problems.count': COUNT,
  'problems.seed': SEED,
  'heldout_fraction': Number(0, 1, below=True),
  'eval.every': COUNT,
  'eval.num_problems': COUNT,
  'eval.retention_problems': ONE_OR_MORE,
  'eval.samples': COUNT,
  'eval.temperature': TEMPERATURE,
  'eval.top_p': SOME,
  'eval.batch': ONE_OR_MORE,
  'eval.beams': COUNT,
  'checkpoint.every': COUNT,
  'checkpoint.keep': COUNT,
  'checkpoint.best': TEXT,
  'log.tensorboard': FLAG,
  'log.wandb_project': TEXT,
  'log.profile_steps': TEXT,
  'data.source': Word(inputs.SOURCES),
  'data.path': TEXT,
  'data.name': TEXT,
  'data.sources': Anything('posttrain_jax.data.sources'),
  'data.max_prompt_length': COUNT,
  'data.max_length': ONE_OR_MORE,
  'data.overlong': Word(formats.OVERLONG),
  'data.special_text': Word(tokenizers.SPECIAL_TEXT),
  'data.after_stop': FLAG,
  'data.packing': FLAG,
  'data.num_epochs': COUNT,
  'data.on_bad_row': Word(bad_rows.RULES),
  'data.on_change': Word(content.RULES),
  'data.eval_path': TEXT,
  'data.eval_fraction': Number(0, 1, below=True),
  'max_new_tokens': COUNT,
  'cache_stages': Whole(1, words=(AUTO,)),
  'slots': AUTO_COUNT,
  'token_buckets': Whole(1, words=(AUTO,)),
  'share_prompts': FLAG,
  'old_logps': Word(('sampler', 'learner')),
  'entropy_coef': FINITE,
  'entropy_over': Word(('own', 'all')),
  'nll_coef': NOT_NEGATIVE,
  'flip_fraction': Number(0, 0.5),
  'meta.answers': Whole(2),
  'meta.rate': NOT_NEGATIVE,
  'meta.sampler': TEXT,
  'own_inputs': SHARE,
  'strength': Listed(TEXT),
  'kl.coef': NOT_NEGATIVE,
  'kl.place': Word(('loss', 'reward')),
  'value_loss.coef': NOT_NEGATIVE,
  'sft_loss.coef': NOT_NEGATIVE,
  'contrastive.annotation': Word(guests.ANNOTATIONS),
  'contrastive.coef': NOT_NEGATIVE,
  **hybrid_domains.KEYS,
  'reward_pool.timeout': POSITIVE,
  'reward_pool.workers': ONE_OR_MORE,
  'rewards': Anything('rewards.entries'),
  **reward_domains.SAMPLER,
  'rollout_overlap': FLAG,
  'log_reward.floor': POSITIVE,
  'log_reward.temperature': POSITIVE,
}

# Of a task "text:NAME", beside its own knobs.
TEXT_TASK = {
  'name': TEXT,
  'seed': SEED,
  'prompt_length': COUNT,
  'completion_length': COUNT,
  'workers': ONE_OR_MORE,
  'timeout': POSITIVE,
}

PARTS = {
  'alpha': FINITE,
  'beta': POSITIVE,
  'coef': NOT_NEGATIVE,
  'epsilon': POSITIVE,
  'fraction': SOME,
  'gamma': SHARE,
  'group_size': ONE_OR_MORE,
  'high': NOT_NEGATIVE,
  'k': ONE_OR_MORE,
  'kl_coef': NOT_NEGATIVE,
  'lam': SHARE,
  'length': ONE_OR_MORE,
  'low': NOT_NEGATIVE,
  'nll_coef': NOT_NEGATIVE,
  'normalize': FLAG,
  'scale': NOT_NEGATIVE,
  'seed': WORD_SEED,
  'tau': POSITIVE,
  'temperature': POSITIVE,
  'threshold': FINITE,  # of a reward, which may be anything
  'weight': NOT_NEGATIVE,
  'adapters/alpha': POSITIVE,
  'adapters/b_rate': POSITIVE,
  'adapters/base': Word(adapters.BASES),
  'adapters/dropout': Number(0, 1, below=True),
  'adapters/rank': ONE_OR_MORE,
  'adapters/targets': Patterns(),
  'advantages/ddof': NOT_NEGATIVE,
  'advantages/docked': FINITE,
  'advantages/smooth': FLAG,
  'advantages/whiten': FLAG,
  'advantages/whiten_rewards': FLAG,
  'advantages/baseline': Word(terms.BASELINES),
  'collect/dedup': FLAG,
  'collect/fixed': FLAG,
  'collect/fraction': SHARE,
  'collect/hint': FLAG,
  'collect/margin': NOT_NEGATIVE,
  'collect/noise': SHARE,
  'collect/oracle': FLAG,
  'collect/other': TEXT,
  'collect/pick': Word(collect.PICK),
  'collect/judge': TEXT,
  'collect/sampler': TEXT,
  'collect/share': SHARE,
  'collect/shuffled': FLAG,
  'collect/slips': SHARE,
  'collect/trust': FLAG,
  'collect/whole_fraction': SHARE,
  'collect/oracle_vs_rollout.keep': Word(collect.KEEP['oracle_vs_rollout']),
  'collect/retries.keep': Word(collect.KEEP['retries']),
  'collect/rollouts.keep': Word(collect.KEEP['rollouts']),
  'contrastive/ceiling': Number(-1, 1),
  **hybrid_domains.CONTROLLERS,
  **curriculum_domains.PARTS,
  'decoders/min_p.p': SHARE,
  'decoders/temperature': TEMPERATURE,
  'decoders/top_p.p': SOME,
  'decoders/typical.p': SOME,
  'distillation/beta': SHARE,
  'distillation/tail': Word(('bucket', 'renormalize')),
  'guides/begin': COUNT,
  'guides/count': COUNT,
  'guides/penalty': POSITIVE,
  'guides/sequences': Listed(Listed(COUNT)),
  'guides/table': Listed(Listed(Whole(-1))),
  'guides/tokens': Listed(COUNT),
  'policy_gradient/clip_high': BOUND,
  'policy_gradient/clip_low': BOUND,
  'policy_gradient/cov_high': Number(also=(math.inf,)),
  'policy_gradient/cov_low': Number(also=(-math.inf,)),
  'policy_gradient/cov_ratio': SOME,
  'policy_gradient/decay_negative': NOT_NEGATIVE,
  'policy_gradient/decay_positive': NOT_NEGATIVE,
  'policy_gradient/delta': RATIO_CAP,
  'policy_gradient/dual_clip': RATIO_CAP,
  'policy_gradient/luffy_shaped.gamma': POSITIVE,
  'policy_gradient/max_ratio': CAP,
  'policy_gradient/max_weight': CAP,
  'policy_gradient/min_ratio': NOT_NEGATIVE,
  'policy_gradient/power_negative': NOT_NEGATIVE,
  'policy_gradient/power_positive': NOT_NEGATIVE,
  'policy_gradient/temperature_negative': POSITIVE,
  'policy_gradient/temperature_positive': POSITIVE,
  'policy_gradient/ppo_clip_sequence_mask.threshold': BOUND,
  'preference/align_coef': NOT_NEGATIVE,
  'preference/center_coef': NOT_NEGATIVE,
  'preference/desirable_weight': NOT_NEGATIVE,
  'preference/f_dpo.divergence': Word(
    ('reverse_kl', 'forward_kl', 'js', 'alpha')
  ),
  'preference/gamma_beta_ratio': NOT_NEGATIVE,
  'preference/label_smoothing': LABEL_NOISE,
  # The logarithm of the smoothing is read.
  'preference/exo_pair.label_smoothing': Number(0, 0.5, above=True, below=True),
  'preference/ld_dpo.alpha': SHARE,
  'preference/length_normalized': FLAG,
  'preference/length_penalty': NOT_NEGATIVE,
  'preference/rank_coef': NOT_NEGATIVE,
  'preference/shift': FINITE,
  'preference/slic.delta': NOT_NEGATIVE,
  'preference/undesirable_weight': NOT_NEGATIVE,
  'reduce/fixed_length.length': NOT_NEGATIVE,  # 0: the width of the rows
  'reward_model/center_coef': NOT_NEGATIVE,
  'reward_model/label_smoothing': LABEL_NOISE,
  **reward_domains.PARTS,
  'supervised/ascent': NOT_NEGATIVE,
  'supervised/clip_high': BOUND,
  'supervised/direction': Word(('forward', 'reverse')),
  'supervised/f_sft.divergence': Word(
    ('total_variation', 'chi2', 'hellinger', 'js', 'reverse_kl')
  ),
  'supervised/f_sft.floor': FINITE,
  'supervised/irl_discriminator.smoothing': LABEL_NOISE,
  'supervised/label_smoothing.smoothing': Number(0, 1, below=True),
  'supervised/level': Word(('sequence', 'token')),
  'supervised/link': Word(('mse', 'bce')),
  'supervised/negative_weight': NOT_NEGATIVE,
  'supervised/nft.floor': POSITIVE,  # its logarithm is read
  'supervised/num_samples': ONE_OR_MORE,
  'supervised/poft.gamma': FINITE,
  'supervised/prob_threshold.high': SHARE,
  'supervised/prob_threshold.low': SHARE,
  'supervised/prompt_weight': Word(('linear', 'sqrt', 'none')),
  'supervised/wrong_reward': FINITE,
  'tokens/alpha': NOT_NEGATIVE,
  'tokens/at_end': SHARE,
  'tokens/boundaries': TEXT,
  'tokens/episodes': ONE_OR_MORE,
  'tokens/missing': NOT_NEGATIVE,
  'tokens/separators': TEXT,
  'token_weights/boost': NOT_NEGATIVE,
  'token_weights/floor': SHARE,
  'token_weights/max_weight': Number(1, also=(math.inf,)),
  'token_weights/min_tau': POSITIVE,
  'token_weights/neighbor_weight': SHARE,
  'token_weights/reward_weighted.temperature': POSITIVE,
  'token_weights/sample_fraction': SOME,
  'token_weights/scope': Word(('batch', 'sequence')),
  'token_weights/sign': FINITE,
  'token_weights/talr.tau': NOT_NEGATIVE,  # 0: the median loss
  'token_weights/talr_floor.tau': NOT_NEGATIVE,
  'token_weights/easy_rows.tau': NOT_NEGATIVE,  # 0: the median row
  'token_weights/threshold.high': SHARE,
  'token_weights/threshold.low': SHARE,
  'token_weights/token_fraction': SOME,
  'value/clip_value': BOUND,
  'value/delta': POSITIVE,
}


def hyperparameter(room: str, function: str, name: str) -> Any | None:
  """The domain of a function's hyperparameter; None: it has none."""
  for key in (f'{room}/{function}.{name}', f'{room}/{name}', name):
    if key in PARTS:
      return PARTS[key]
  return None


def _knob(task: str, name: str) -> Any | None:
  """The domain of a task's knob: the type of its default, which the task
  narrows itself."""
  if not isinstance(task, str):
    return None  # it is refused as a name
  if task.startswith(text_task.PREFIX):
    return TEXT_TASK.get(name)
  if name == 'weight':  # in a mixture
    return NOT_NEGATIVE
  if task not in tasks.__all__:
    return TEXT  # its name is refused where it is looked up
  default = tasks.defaults(task).get(name)
  kinds = {bool: FLAG, int: Whole(), float: FINITE, str: TEXT}
  return kinds.get(type(default))


def domain_of(config: Any, path: tuple[str, ...]) -> Any | None:
  """The domain of the leaf at `path` of a run's config; None: it has none."""
  key = '.'.join(path)
  if key in KEYS:
    return KEYS[key]
  *above, leaf = path
  if path[0] == 'others':
    return TEXT
  if path[0] == 'task':
    if 'knobs' in above:
      return None  # reasoning-gym's own; numbers have to be finite
    section = config
    for part in above:
      section = section[part]
    return TEXT if leaf == 'name' else _knob(section.get('name', ''), leaf)
  if len(path) != 2:
    return None
  if leaf == 'name':
    return TEXT
  name = config[path[0]].get('name', '')
  room = config_lib.room_of(config, path[0], name)
  if room is None:
    return None
  return hyperparameter(room.__name__.rpartition('.')[2], name, leaf)
