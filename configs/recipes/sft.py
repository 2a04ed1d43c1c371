"""Recipes on given or self-made answers: `configs/sft.py:recipe=NAME`.

Each is held to a form of its whole objective, tests/recipe_forms_sft*.py, which
says where it was read and what the row does otherwise.
"""

from posttrain_jax import collect, token_weights
from posttrain_jax.core.resolve import part
from posttrain_jax.losses import reduce, supervised
from posttrain_jax.tasks import conditioned

TOKEN_MEAN = part(reduce, 'token_mean')
SEQUENCE_MEAN = part(reduce, 'sequence_mean')
SEQUENCE_SUM = part(reduce, 'sequence_sum')

# A frozen sampler's right answers, each once.
ACCEPTED = part(collect, 'rollouts', sampler='ref', keep='correct', dedup=True)


def _loss(reference: str, name: str, average=TOKEN_MEAN, **keys) -> dict:
  """A method that is a loss; `keys` may hold its hyperparameters as `loss`."""
  hparams = keys.pop('loss', {})
  return dict(
    reference=reference,
    loss=part(supervised, name, **hparams),
    reduce=average,
    **keys,
  )


def _weighted(reference: str, name: str, average=TOKEN_MEAN, **keys) -> dict:
  """Cross-entropy with token weights."""
  hparams = keys.pop('weights', {})
  return dict(
    reference=reference,
    loss=part(supervised, 'nll'),
    weights=part(token_weights, name, **hparams),
    reduce=average,
    **keys,
  )


SFT = {
  # Cross-entropy on the completion.
  'sft': _loss('https://arxiv.org/abs/2203.02155', 'nll'),
  'label_smoothing': _loss(
    'https://arxiv.org/abs/1512.00567', 'label_smoothing'
  ),
  # Dynamic fine-tuning: tokens weigh as likely as they are.
  'dft': _loss('https://arxiv.org/abs/2508.05629', 'dft'),
  # (1 - p^alpha) / alpha, and its form on tokens above a probability.
  'prob_alpha': _loss('https://arxiv.org/abs/2510.00526', 'prob_alpha'),
  'prob_threshold': _loss('https://arxiv.org/abs/2510.00526', 'prob_threshold'),
  # Anchored SFT: DFT and a KL to the start, both directions.
  'asft': _loss('https://arxiv.org/abs/2509.23753', 'asft'),
  'asft_reverse': _loss(
    'https://arxiv.org/abs/2509.23753', 'asft', loss=dict(direction='reverse')
  ),
  # The arm of that paper that anchors plain cross-entropy.
  'sft_kl': _loss(
    'https://arxiv.org/abs/2509.23753', 'asft', loss=dict(alpha=0.0)
  ),
  # Proximal SFT: eight updates of 16 rows for each cached policy.
  'psft': _loss('https://arxiv.org/abs/2508.17784', 'psft', minibatch_rows=16),
  'iw_sft': _loss('https://arxiv.org/abs/2507.12856', 'iw_sft'),
  'iw_sft_step': _loss(
    'https://arxiv.org/abs/2507.12856',
    'iw_sft',
    loss=dict(level='token', low=0.2, high=1.8),
  ),
  # The objective is 1 / T over each sequence's tokens.
  'otr': _loss('https://arxiv.org/abs/2509.26313', 'otr', SEQUENCE_MEAN),
  'otr_exact': _loss(
    'https://arxiv.org/abs/2509.26313', 'otr_exact', SEQUENCE_MEAN
  ),
  # SFT as distribution matching, one row for each divergence.
  'f_sft': _loss('https://arxiv.org/abs/2507.00018', 'f_sft', SEQUENCE_SUM),
  **{
    f'f_sft_{name}': _loss(
      'https://arxiv.org/abs/2507.00018',
      'f_sft',
      SEQUENCE_SUM,
      loss=dict(divergence=name),
    )
    for name in ('total_variation', 'hellinger', 'js', 'reverse_kl')
  },
  # The adversary of SFT as inverse RL: demonstrations against own samples.
  'irl_discriminator': _loss(
    'https://arxiv.org/abs/2403.12017',
    'irl_discriminator',
    collect=part(collect, 'oracle_and_rollouts'),
    group_size=2,
  ),
  # Inputs are mixed with the model's own predictions, and tokens answer for the
  # losses they lead to.
  'ift': _loss(
    'https://arxiv.org/abs/2405.11870', 'ift', SEQUENCE_MEAN, own_inputs=0.2
  ),
  # `others.teacher` stands for the aligned models whose scores are beaten.
  'poft': _loss(
    'https://arxiv.org/abs/2412.12865',
    'poft',
    SEQUENCE_SUM,
    others=dict(teacher=''),
  ),  # fmt: skip
  'uft': _loss(
    'https://arxiv.org/abs/2410.21438', 'uft_implicit', SEQUENCE_SUM
  ),
  # Scores of own answers, regressed by the implicit reward.
  'una': _loss(
    'https://arxiv.org/abs/2408.15339',
    'una',
    SEQUENCE_SUM,
    collect=part(collect, 'oracle_and_rollouts'),
    group_size=4,
  ),
  'unlikelihood': _loss('https://arxiv.org/abs/1908.04319', 'unlikelihood'),
  # Demonstrations up, own wrong answers down.
  'unlikelihood_negative': _loss(
    'https://arxiv.org/abs/1908.04319',
    'unlikelihood_negative',
    collect=part(collect, 'oracle_and_rollouts'),
    group_size=4,
  ),
  # Tokens of least influence are unlearnt. `ref.path` is the start tuned on a
  # clean subset, `others.base` the start itself. The ascent does not grow.
  'forgetting': _loss(
    'https://arxiv.org/abs/2508.04329',
    'forgetting',
    negative=part(token_weights, 'token_cleaning', fraction=0.7),
    others=dict(base=''),
  ),
  # Own right and wrong answers; rows of a problem weigh by its difficulty. The
  # authors' script divides the sum over tokens by 1000, not by their number:
  # one positive factor for each minibatch.
  'nft': _loss(
    'https://arxiv.org/abs/2505.18116',
    'nft',
    collect=part(collect, 'rollouts', keep='mixed'),
    group_size=8,
    minibatch_rows=256,
  ),
  # L2-SP: a pull of all parameters to where the run starts, in the optimizer.
  'l2_to_start': _loss(
    'https://arxiv.org/abs/1802.01483', 'nll', optimizer=dict(l2_to_start=0.01)
  ),
  # Token weights on cross-entropy.
  'talr': _weighted('https://arxiv.org/abs/2509.20758', 'talr'),
  'talr_floor': _weighted('https://arxiv.org/abs/2509.20758', 'talr_floor'),
  # FLOW: rows weigh by how easy they are for the model before training.
  'easy_rows': _weighted('https://arxiv.org/abs/2502.02797', 'easy_rows'),
  'critical_tokens': _weighted(
    'https://arxiv.org/abs/2510.10974',
    'critical_tokens',
    collect=part(collect, 'counterfactual'),
  ),
  # `others.shuffled`: a model tuned with collect.shuffled=True.
  'shad': _weighted(
    'https://arxiv.org/abs/2412.14780',
    'shad',
    SEQUENCE_MEAN,
    others=dict(base='', shuffled=''),
  ),
  # `ref.path`: the start, tuned on a clean subset.
  'token_cleaning': _weighted(
    'https://arxiv.org/abs/2502.01968',
    'token_cleaning',
    others=dict(base=''),
  ),
  'rho1': _weighted('https://arxiv.org/abs/2404.07965', 'rho1'),
  # The history model is the policy of some steps ago; the attention on the
  # prompt, the other half of the authors' score, is left out.
  'ss_token': _weighted(
    'https://arxiv.org/abs/2510.18250', 'ss_token', ref=dict(refresh_every=50)
  ),
  'q_tuning': _weighted('https://arxiv.org/abs/2509.23873', 'q_tuning'),
  'fait': _weighted(
    'https://arxiv.org/abs/2503.16913',
    'fait',
    collect=part(collect, 'oracle_with_wrong', sampler='policy'),
    group_size=4,
  ),
  'tl_training': _weighted(
    'https://arxiv.org/abs/2412.15495',
    'key_tokens',
    SEQUENCE_MEAN,
    collect=part(collect, 'oracle_with_wrong', sampler='policy'),
    group_size=4,
  ),
  'high_entropy': _weighted('https://arxiv.org/abs/2506.01939', 'high_entropy'),
  # Own answers, unchecked: only how they begin is learnt.
  'upft': _weighted(
    'https://arxiv.org/abs/2503.02875',
    'prefix_only',
    weights=dict(length=8),
    collect=part(collect, 'rollouts', sampler='ref', whole_fraction=0.1),
  ),
  'chord_phi': _weighted('https://arxiv.org/abs/2508.11408', 'chord_phi'),
  'srft_demonstrations': _weighted(
    'https://arxiv.org/abs/2506.19767', 'srft_entropy'
  ),
  # Loops that make their own data.
  'rejection_sampling': _loss(
    'https://arxiv.org/abs/2308.01825',
    'nll',
    collect=ACCEPTED,
    group_size=8,
  ),
  # The sampler is the policy of the last iteration.
  'expert_iteration': _loss(
    'https://arxiv.org/abs/2312.06585',
    'nll',
    collect=ACCEPTED,
    group_size=8,
    ref=dict(refresh_every=50),
  ),
  # Problems whose best answer earns nothing are left out: ours.
  'raft': _loss(
    'https://arxiv.org/abs/2304.06767',
    'nll',
    collect=part(collect, 'best_of'),
    group_size=8,
  ),
  's3ft': _loss(
    'https://arxiv.org/abs/2502.08130',
    'nll',
    collect=part(collect, 'self_rehearsal'),
  ),
  'ssr': _loss(
    'https://arxiv.org/abs/2409.04787',
    'nll',
    collect=part(collect, 'self_rehearsal', hint=False),
  ),
  # Own right and wrong answers, each behind its verdict; evaluation asks for
  # a good one. LeTI's rows are the same without the oracle's.
  'faft': _loss(
    'https://arxiv.org/abs/2408.06318',
    'nll',
    condition=dict(name='feedback'),
    collect=part(collect, 'feedback', oracle=True),
    group_size=8,
  ),
  'leti': _loss(
    'https://arxiv.org/abs/2305.10314',
    'nll',
    condition=dict(name='feedback'),
    collect=part(collect, 'feedback', oracle=False),
    group_size=8,
  ),
  # The best answer along a direction that the prompt names.
  'dpa': _loss(
    'https://arxiv.org/abs/2402.18571',
    'nll',
    condition=dict(name='direction', **conditioned.knobs('direction')),
    collect=part(collect, 'best_of', threshold=-1.0),
    group_size=8,
  ),
  # Demonstrations without their questions; a long chain is what they teach.
  'qfft': _loss(
    'https://arxiv.org/abs/2506.12860',
    'nll',
    collect=part(collect, 'question_free'),
  ),
  # First answers, and second ones behind those that were wrong. Half of the
  # problems of an evaluation show an answer.
  'rise': _weighted(
    'https://arxiv.org/abs/2407.18219',
    'reward_weighted',
    SEQUENCE_MEAN,
    collect=part(collect, 'retries'),
    condition=dict(
      name='seen_answer',
      **{**conditioned.knobs('seen_answer'), 'plain': 0.5},
    ),
    group_size=8,
  ),
  # Sequence-level distillation: the teacher's answers as demonstrations.
  'teacher_samples': _loss(
    'https://arxiv.org/abs/1606.07947',
    'nll',
    collect=part(collect, 'rollouts', sampler='teacher'),
    others=dict(teacher=''),
  ),
}
