"""The whole way: a model folder and files, one command for each step."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from front_door import REWARDS, ask, command, make, say, told, write

from posttrain_jax import evaluate, export, log, rollout, show_data, train
from posttrain_jax.data import chat, tokenizers
from posttrain_jax.models import adapted, hf
from posttrain_jax.params import peft
from posttrain_jax.rollout import decoders

# What would be silently wrong, or is asked for by another name: each is said in
# one line before anything is compiled.
REFUSED = [
  ('sft', {'data.path': ''}, 'needs data.path: a file or a glob'),
  ('sft', {'data.path': 'chta.jsonl'}, 'Did you mean "chat.jsonl"?'),
  ('sft', {'init_from': 'modle'}, 'there is no modle; a run is the folder'),
  ('sft', {'init_from': 'modle'}, 'Did you mean "model"?'),
  ('grpo', {'data.path': 'blank.jsonl'},
   'blank.jsonl: column "answer", which reward "math_verify" reads, is null or '
   'empty in all 100 records'),
  ('sft', {'init_from': 'empty'}, 'neither a run of train nor a model folder'),
  ('sft', {'init_from': 'bare'}, 'init_from=bare has no tokenizer.json'),
  ('grpo', {'init_from': 'bare'}, 'init_from=bare has no tokenizer.json'),
  ('sft', {'data.path': 'pairs.jsonl'}, 'does not train on kind "preference"'),
  ('dpo', {'data.path': 'chat.jsonl'}, 'does not train on kind "messages"'),
  ('grpo', {'data.path': 'chat.jsonl'}, 'no column "prompt", which kind'),
  ('grpo', {'data.path': 'pairs.jsonl'},
   'no column "solution" or "answer", which reward "math_verify" reads'),
  ('grpo', {'rewards': '[{"name": "math_verfy"}]'},
   'Did you mean "math_verify"?'),
  ('grpo', {'rewards': 'math_verfy'}, 'Did you mean "math_verify"?'),
  ('grpo', {'rewards': '[{"nam": "math_verify"}]'}, 'Did you mean "name"?'),
  ('grpo', {'rewards': '[{"name": math_verify}]'}, 'a list is written as JSON'),
  ('grpo', {'rewards': '[{"name": "mine:polite"}]'}, 'no module "mine"'),
  ('grpo', {'data.eval_fraction': 0.1}, 'configs/sft.py has it'),
  ('sft', {'rewards': REWARDS}, 'configs/rl.py has it'),
  ('sft', {'adapter.rank': 4}, 'be of another --config.adapter.name'),
  ('sft', {'optimizer.lr': 'fast'}, "not a float (it is 'auto' now)"),
  ('sft', {'data.source': 'task'}, 'as in configs/sft.py:data=jsonl'),
]  # fmt: skip
LORA = {
  'adapter.name': 'lora', 'adapter.rank': 4, 'num_steps': 3,
  'optimizer.warmup_updates': 0,
}  # fmt: skip


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return make(tmp_path_factory.mktemp('front_door'))


@pytest.fixture(autouse=True)
def in_the_folder(monkeypatch, folder):
  monkeypatch.chdir(folder)


@pytest.mark.parametrize('stage, wrong, message', REFUSED)
def test_what_is_wrong_is_said(stage, wrong, message, folder, capsys):
  said = told(capsys, stage, **wrong)
  assert said.startswith('error: ') and message in said
  assert said.count('\n') == 1 and len(said) < 600


def test_a_flag_that_is_a_key(capsys):
  words = command('sft', 'model', 'runs/no', '--init_from=model')
  assert train.main(words) == 2
  assert '--config.init_from=VALUE' in capsys.readouterr().err


@pytest.mark.parametrize('keys, note', [
  ({'init_from': ''}, 'init_from is not set: a new model'),
  ({'init_from': 'plain'}, 'no chat template: turns are written as ChatML'),
  ({'init_from': 'sizes'}, 'sizes (policy) has no *.safetensors'),
  ({'data.num_epochs': 3, 'num_steps': 0},
   'data.num_epochs=3 makes num_steps='),
])  # fmt: skip
def test_what_may_surprise_is_told(keys, note, folder, capsys):
  words = command('sft', 'model', 'runs/no', '--dry_run', **keys)
  assert train.main(words) == 0
  assert note in capsys.readouterr().out


def test_turns_of_chatml_end_whatever_the_eos_is(folder):
  """Of a folder without a template, whose EOS is another token."""
  tokenizer = tokenizers.load('plain')
  names = [tokenizer.name(i) for i in tokenizer.stops]
  assert names == ['<|endoftext|>', '<|im_end|>']
  turns = chat.render(ask(1, 2) + say(3), tokenizer)
  last = max(i for i, counted in enumerate(turns.mask) if counted)
  assert turns.tokens[last] in tokenizer.stops


def metrics(workdir, split='train'):
  _, rows = log.read(f'{workdir}/metrics.jsonl')
  return [row for row in rows if row['split'] == split]


def rises(values, size=15):
  """By how many standard errors the last ones are above the first."""
  first, last = np.array(values[:size]), np.array(values[-size:])
  error = np.hypot(first.std(ddof=1), last.std(ddof=1)) / np.sqrt(size)
  return (last.mean() - first.mean()) / error


def test_what_will_be_trained_is_shown(folder, capsys):
  words = ['--data', 'chat.jsonl', '--model', 'model', '--json', '--num', '1']
  show_data.main(words)
  row = json.loads(capsys.readouterr().out)
  tokenizer = tokenizers.load('model')
  trained = [t for t, m in zip(row['tokens'], row['mask']) if m]
  assert tokenizer.decode(trained) == '0' and trained[-1] in tokenizer.stops


@pytest.mark.parametrize('stage', ['sft', 'dpo', 'grpo'])
@pytest.mark.parametrize('more', [{}, LORA], ids=['whole', 'lora'])
def test_a_dry_run_says_what_would_be_done(stage, more, capsys):
  words = command(stage, 'model', 'runs/no', '--dry_run', **more)
  assert train.main(words) == 0
  out = capsys.readouterr().out
  assert 'resolved sizes' in out and 'tokenizer: model' in out
  assert ('of 1' in out and 'rank 4' in out) == bool(more)


def greedy(folder, asked, size):
  """Ids of greedy answers to messages, up to and with the stop token."""
  config, params = hf.load(folder)
  tokenizer = tokenizers.load(folder)
  rows = [chat.prompt_tokens(tokenizer, messages) for messages in asked]
  width = max(map(len, rows))
  tokens = np.array([row + [0] * (width - len(row)) for row in rows], np.int32)
  mask = np.array([[i < len(row) for i in range(width)] for row in rows])
  out = rollout.generate(
    params, config, tokens, mask.astype(np.float32), jax.random.key(0),
    group_size=1, max_new_tokens=size, decoder=decoders.greedy,
    eos_id=tokenizers.ends(tokenizer), pad_id=tokenizer.pad_id,
  )  # fmt: skip
  answers, real = np.asarray(out.completion[:, 0]), np.asarray(out.mask[:, 0])
  return [row[m > 0].tolist() for row, m in zip(answers, real)]


@pytest.fixture(scope='module')
def trained(folder):
  """The folder after SFT, DPO and GRPO, one from the other."""
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    words = command('sft', 'model', 'runs/sft', **{'eval.every': 20})
    assert train.main(words) == 0
    assert train.main(command('dpo', 'runs/sft', 'runs/dpo')) == 0
    assert train.main(command('grpo', 'runs/dpo', 'runs/grpo')) == 0
    assert export.main(['--checkpoint', 'runs/grpo', '--out', 'out']) == 0
  return folder


@pytest.mark.slow
def test_losses_fall(trained):
  losses = [row['loss'] for row in metrics('runs/sft')]
  held = [row['eval/loss'] for row in metrics('runs/sft', 'eval')]
  assert losses[-1] < 0.5 * losses[0] and held[-1] < 0.5 * held[0]
  # The first step of DPO compares a model with itself.
  rows = metrics('runs/dpo')
  assert rows[0]['loss'] == pytest.approx(np.log(2), abs=1e-5)
  assert rows[-1]['loss'] < 0.5 and rows[-1]['rewards/margins'] > 0
  held = metrics('runs/dpo', 'eval')[-1]
  assert held['eval/loss'] < np.log(2) and held['eval/rewards/margins'] > 0


@pytest.mark.slow
def test_the_mean_reward_rises(trained):
  rows = metrics('runs/grpo')
  rewards = [row['reward'] for row in rows]
  assert 0.1 <= np.mean(rewards[:4]) <= 0.6
  assert rises(rewards) > 3
  assert all(row['rewards/math_verify/errors'] == 0 for row in rows)


@pytest.mark.slow
def test_evaluate_says_what_the_run_said(trained, capsys):
  capsys.readouterr()
  assert evaluate.main(['--checkpoint', 'runs/grpo']) == 0
  scores = json.loads(capsys.readouterr().out)
  last = metrics('runs/grpo', 'eval')[-1]
  for name in ('eval/accuracy', 'eval/length', 'eval/reward'):
    assert scores[name] == pytest.approx(last[name])


@pytest.mark.slow
@pytest.mark.parametrize('stage, start', [
  ('sft', 'model'), ('dpo', 'runs/sft'), ('grpo', 'runs/dpo'),
])  # fmt: skip
def test_adapters_of_each(trained, stage, start):
  """A few steps, written merged and apart; what is apart begins a run."""
  run = f'runs/{stage}_lora'
  assert train.main(command(stage, start, run, **LORA)) == 0
  rows = metrics(run)
  assert len(rows) == 3 and all(row['grad_norm'] > 0 for row in rows)
  if stage == 'dpo':
    assert rows[0]['loss'] == pytest.approx(np.log(2), abs=1e-5)
  words = ['--checkpoint', run, '--out']
  assert export.main([*words, f'{run}/merged']) == 0
  assert export.main([*words, f'{run}/adapter', '--adapter']) == 0
  merged = hf.load(f'{run}/merged')[1]
  apart = adapted.merged(peft.load(f'{run}/adapter')[1])
  for one, two in zip(jax.tree.leaves(merged), jax.tree.leaves(apart)):
    np.testing.assert_allclose(one, two, atol=1e-6)
  words = command(stage, f'{run}/adapter', 'runs/no', '--dry_run')
  assert train.main(words) == 0


@pytest.mark.slow
def test_word_problems_go_the_same_way(trained):
  """Longer prompts of a public generator: the path works; nothing is learnt
  in two steps."""
  gym = pytest.importorskip('reasoning_gym')
  made = gym.create_dataset('gsm_symbolic', size=24, seed=7)
  write(Path('gsm.jsonl'), [
    {'prompt': [{'role': 'user', 'content': row['question']}],
     'answer': row['answer']} for row in made
  ])  # fmt: skip
  words = command(
    'grpo', 'runs/sft', 'runs/gsm', num_steps=2, prompts_per_step=4,
    max_new_tokens=16, **{'data.path': 'gsm.jsonl', 'eval.num_problems': 4},
  )  # fmt: skip
  assert train.main(words) == 0
  rows = metrics('runs/gsm')
  assert [row['step'] for row in rows] == [1, 2]
  for row in rows:
    assert np.isfinite(row['loss']) and 0 <= row['reward'] <= 1
    assert row['rewards/math_verify/errors'] == 0
    assert row['completions/mean_length'] > 0
  assert 'eval/accuracy' in metrics('runs/gsm', 'eval')[-1]


ASKED = [ask(a, b) for a, b in ((1, 2), (3, 4), (9, 9), (0, 7))]
SIZE = 12


@pytest.mark.slow
def test_the_exported_folder_stops(trained):
  stops = tokenizers.load('out').stops
  assert all(answer[-1] in stops for answer in greedy('out', ASKED, SIZE))


@pytest.mark.slow
def test_transformers_says_the_same_and_stops(trained):
  transformers = pytest.importorskip('transformers')
  model = transformers.AutoModelForCausalLM.from_pretrained('out')
  tokenizer = transformers.AutoTokenizer.from_pretrained('out')
  for messages, answer in zip(ASKED, greedy('out', ASKED, SIZE)):
    given = tokenizer.apply_chat_template(
      messages, add_generation_prompt=True, return_tensors='pt',
      return_dict=True,
    )  # fmt: skip
    out = model.generate(**given, do_sample=False, max_new_tokens=SIZE)
    assert out[0, given['input_ids'].shape[1] :].tolist() == answer
