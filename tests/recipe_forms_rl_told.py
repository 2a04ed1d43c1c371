"""Forms of recipes whose answers are told something, or that share a step with
imitation: labels, held demonstrations, hints, second answers, shares."""

import numpy as np
import recipe_forms_rl_critic as critic
import recipe_forms_rl_hybrid as hybrid
from recipe_form import Form
from recipe_harness_rl import Setting, log_softmax, logps


def clipped(now, old, i, n, advantage, low=0.2, high=0.2):
  """[n] PPO's loss of an answer's tokens."""
  ratio = np.exp(now[i, :n] - old[i, :n])
  bounded = np.clip(ratio, 1 - low, 1 + high)
  return -np.minimum(ratio * advantage, bounded * advantage)


def nll(live, data, *problems):
  """Mean over all tokens of demonstrations, of these problems only if any."""
  now, tokens = logps(live, data), []
  for b, _, i, n in hybrid.lengths(data, 'expert'):
    if not problems or b in problems:
      tokens.append(-now[i, :n])
  return np.concatenate(tokens).mean()


# ---- ViSurf.


def visurf(live, frozen, data):
  """A group of own answers and a label that gives way to them."""
  del frozen
  now, start = logps(live, data), logps(data.start, data)
  losses = []
  for b, row in enumerate(data.rows()):
    own, label = data.rewards['own'][b], data.rewards['expert'][b, 0]
    if own.max() >= label:
      label = own.mean()
    every = np.append(own, label)
    advantage = (every - every.mean()) / (every.std(ddof=1) + 1e-4)
    answers = [(i, data.old_logps) for i in row]
    answers.append((data.rows('expert')[b, 0], start))
    for (i, old), a in zip(answers, advantage):
      n = int(data.mask[i].sum())
      if n:
        losses.append(clipped(now, old, i, n, a).mean())
  return np.mean(losses)


# ---- ReLIFT.


def relift(live, frozen, data):
  """Dual-clipped PPO; then SFT where no answer of the group is right."""
  del frozen
  now, losses = logps(live, data), []
  for b, g, i, n in hybrid.lengths(data):
    own = data.rewards['own'][b]
    a = own[g] - own.mean()
    loss = clipped(now, data.old_logps, i, n, a, high=0.28)
    losses.append(np.minimum(-3.0 * a, loss) if a < 0 else loss)
  unsolved = [b for b, x in enumerate(data.rewards['own']) if not x.any()]
  assert len(unsolved) == 1  # as many as the setting's buffer holds
  return np.concatenate(losses).mean() + nll(live, data, *unsolved)


# ---- SASR.


def sasr(live, frozen, data):
  """SFT in the first step; later GRPO with its KL, or SFT, by the coin.

  The coin's chance is next to nothing once the warm-up is over.
  """
  del frozen
  if data.step == 0:
    return nll(live, data)
  now, ref, losses = logps(live, data), logps(data.ref, data), []
  for b, g, i, n in hybrid.lengths(data):
    a = hybrid.z_score(data.rewards['own'][b], 1e-4)[g]
    apart = ref[i, :n] - now[i, :n]
    penalty = 0.04 * (np.exp(apart) - apart - 1)
    losses.append((clipped(now, data.old_logps, i, n, a) + penalty).mean())
  return np.mean(losses)


# ---- AMFT.


def amft(live, frozen, data, share=0.5):
  """The share of imitation, the rest PPO with its entropy; the critic apart."""
  del frozen
  policy = critic.ppo(live, data, critic=0.0)
  value = critic.ppo(live, data, critic=0.1) - policy
  rl = policy - 0.01 * hybrid.mean_entropy(live, data, 'own')
  return (1 - share) * rl + share * nll(live, data) + value


# ---- UFT.


def uft(live, frozen, data):
  """GRPO with a KL on what follows the hint, likelihood on the hint."""
  del frozen
  now, ref = logps(live, data), logps(data.ref, data)
  losses, hints = [], []
  for b, g, i, n in hybrid.lengths(data):
    told = data.hints[i, :n] > 0
    hints.append(-now[i, :n][told])
    a = hybrid.z_score(data.rewards['own'][b], 1e-4)[g]
    apart = ref[i, :n] - now[i, :n]
    penalty = 0.001 * (np.exp(apart) - apart - 1)
    loss = clipped(now, data.old_logps, i, n, a) + penalty
    losses.append(loss[~told])
  return np.concatenate(losses).mean() + 0.001 * np.concatenate(hints).mean()


# ---- AceReason.


def at_temperature(table, data, temperature):
  """(log-probabilities of tokens, entropies), both [N, C]."""
  every = log_softmax(table.logits / temperature)
  taken = np.take_along_axis(every, data.tokens[..., None], -1)[..., 0]
  spread = -(np.exp(every) * every).sum(axis=-1)
  return np.where(data.mask > 0, taken, 0.0), spread * data.mask


def acereason(live, frozen, data, target=1.4):
  """GRPO at the temperature that the last steps led to, whole answers only."""
  whole = [
    (b, g, i, n) for b, g, i, n in hybrid.lengths(data) if data.finished[i] > 0
  ]
  temperature = 1.0
  for _ in range(data.step):
    _, spread = at_temperature(frozen, data, temperature)
    seen = np.concatenate([spread[i, :n] for _, _, i, n in whole]).mean()
    error = np.clip(1 - seen / target, -1, 1)
    temperature = np.clip(temperature * np.exp(0.1 * error), 0.2, 2.0)
  assert data.step == 0 or abs(temperature - 1) > 1e-3
  now, _ = at_temperature(live, data, temperature)
  losses = []
  for b, g, i, n in whole:
    # Cut answers are compared with.
    a = hybrid.z_score(data.rewards['own'][b], 1e-4)[g]
    losses.append(clipped(now, data.old_logps, i, n, a))
  return np.concatenate(losses).mean()


_EPSILON = '1e-4 is added to the spread of rewards, as in TRL'

FORMS = {
  'visurf': Form(
    visurf,
    'https://arxiv.org/abs/2510.10606',
    'eq. 6 to 9: the group with its label, the three controls',
    'token ratios and a mean by answer (the equations have those of whole '
    'answers; what was run is not public); the label is written as the policy '
    'writes, and earns nothing for a format; ' + _EPSILON,
  ),
  'relift': Form(
    relift,
    'https://github.com/TheRoadQaQ/ReLIFT/blob/main/relift/verl/verl/relift/'
    'trainer.py',
    'fit (the buffer), actor.py update_policy and sft_update_policy; '
    'examples/math-7b/train.sh: clip 0.2 and 0.28, dual clip 3, no spread',
    '16 demonstrations at a time for 32 problems a step (64 for 128); a '
    'buffer that is full loses what comes (theirs grows); earlier versions of '
    'the code have no clip and sum tokens',
  ),
  'sasr': Form(
    sasr,
    'https://arxiv.org/abs/2505.13026',
    'the warm-up and the choice between SFT and GRPO by gradient norms; '
    'https://arxiv.org/abs/2402.03300 eq. 3 and 4 for GRPO',
    'the equation of the choice was not found: g / (g + gamma g_w) is the '
    'form that is tested, with the mean norm of a tenth of the steps as g_w, '
    'which the published warm-up is a stage before; g is measured in every '
    'step; SFT is a mean over tokens, not a sum; ' + _EPSILON,
  ),
  'amft': Form(
    amft,
    'https://github.com/TSYJ-He/AMFT/blob/main/src/trainer/amft_trainer.py',
    '_main_adaptive_loop; ppo_loss.py compute_ppo_loss; '
    'adaptive_weight_controller.py',
    'the share moves after the step, not before it; by the cosine of '
    'gradients with the sign that lowers the held-out loss (theirs raises '
    'it); the critic learns with the policy (theirs: its head alone); '
    'advantages come from answers (theirs are random numbers)',
  ),
  'uft': Form(
    uft,
    'https://github.com/liumy2010/UFT/blob/main/verl/workers/actor/dp_actor.py',
    'update_policy; verl/utils/dataset/rl_dataset.py (how much is told); '
    'run.py: 0.001 on the hint, 4 answers',
    'the fraction of the run stands for steps of 300; what is told ends '
    'before the last token; ' + _EPSILON,
  ),
  'critique_grpo': Form(
    hybrid.luffy,
    'https://github.com/zhangxy-2019/critique-GRPO/blob/main/verl/verl/'
    'critique_grpo/critique_core_algos.py',
    'compute_token_on_off_policy_loss with p_div_p_0.1 and no clip; '
    'critique_vllm_rollout_spmd.py (which second answer)',
    'second answers are of the group (7), not of an eighth answer too; '
    'the true answer that is told is all that the oracle writes; '
    + hybrid._WIDTH,
  ),
  'acereason': Form(
    acereason,
    'https://arxiv.org/abs/2506.13284',
    'section 3: on-policy GRPO by tokens, no KL, masks of cut answers, the '
    'temperature whose entropy stays near 0.3',
    'a controller moves the temperature every step (theirs is chosen by '
    'hand); cut answers are in the mean and the spread; ' + _EPSILON,
  ),
}

SETTINGS = {
  'relift': Setting(items=(('hard_buffer.rows', '1'),)),
  'sasr': Setting(items=(('sft_controller.gamma', '1e9'),), step=1),
  'acereason': Setting(
    items=(('temperature_controller.target', '1.4'),), step=2
  ),
}
