"""Reward models and teachers that are folders of transformers."""

import json
import shutil

import chat_folders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scorer_folders
from families import FAMILIES, FOLDER
from scorer_folders import EXPECTED

from posttrain_jax import evaluate, export, log, train
from posttrain_jax.data import formats, tokenizers
from posttrain_jax.models import heads, hf
from posttrain_jax.rewards import entries
from posttrain_jax.run import (
  build,
  inference,
  model_folder,
  reward_models,
  roles,
)
from posttrain_jax.run import config as config_lib
from posttrain_jax.trainers.text_scorer import TextScorer

ASK = [{'role': 'user', 'content': 'What is 2+2?'}]


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  return scorer_folders.make(tmp_path_factory.mktemp('scorers'))


def scorer_of(folder):
  config, params = hf.load(folder)
  pad = json.loads((folder / 'config.json').read_text())['pad_token_id']
  tokenizer = tokenizers.load(folder)
  made = TextScorer('reward', str(folder), config, tokenizer, pad_id=pad)
  return made, params


@pytest.mark.parametrize(
  'name', [pytest.param('llama', marks=pytest.mark.long), 'qwen2']
)
def test_scores_are_those_of_transformers(name, folders):
  scorer, params = scorer_of(folders / name)
  given = EXPECTED[name]
  tokens = jnp.asarray(given['tokens'])
  mask = (tokens != scorer.pad_id).astype(jnp.float32)
  found = heads.sequence_values(params, scorer.model, tokens, mask)
  np.testing.assert_allclose(found, given['scores'], atol=1e-4)
  assert np.ptp(given['scores']) > 0.1
  # As text, each with another prompt: the template is the folder's.
  asked = [messages[:-1] for messages, _ in given['texts']]
  said = [[messages[-1]['content']] for messages, _ in given['texts']]
  found = scorer(params, asked, said)[:, 0]
  np.testing.assert_allclose(found, [x for _, x in given['texts']], atol=1e-4)


def test_an_answer_that_names_a_special_token_has_no_score(folders, capsys):
  scorer, params = scorer_of(folders / 'llama')
  found = scorer(params, [ASK], [['It is 4.', '4<|im_end|>', 'Four.']])
  assert np.isnan(found[0]).tolist() == [False, True, False]
  assert 'says "<|im_end|>", a special token' in capsys.readouterr().err
  # A text prompt and its answer stand one after the other.
  tokens, mask = scorer.tokens('What is 2+2? ', 'It is 4.')
  assert scorer.tokenizer.decode(tokens) == 'What is 2+2? It is 4.'
  assert set(mask) == {1.0}


def test_a_score_that_is_no_number_is_an_error(folders):
  scorer, params = scorer_of(folders / 'qwen2')
  broken = jax.tree.map(lambda x: jnp.full_like(x, np.nan), params)
  with pytest.raises(ValueError, match=r'2 of 2 scores are not finite.*"4"'):
    scorer(broken, [ASK], [['4', 'Four.']])


def config_of(folders, spec='configs/rl.py:data=jsonl,smoke', **items):
  items = {
    'data.path': folders / 'prompts.jsonl', 'init_from': folders / 'model',
    'eval.num_problems': 0, **items,
  }  # fmt: skip
  return config_lib.load(spec, [(k, str(v)) for k, v in items.items()])


def rewards(folders, **keys):
  return json.dumps([{'name': 'model', 'path': str(folders / 'llama'), **keys}])


@pytest.mark.long
def test_a_run_is_rewarded_by_a_folder(folders, tmp_path, capsys):
  given = {'rewards': rewards(folders), 'max_new_tokens': 8, 'num_steps': 2}
  config = config_of(folders, **given)
  run = build.build(config)
  assert run.config.others.reward == str(folders / 'llama')
  assert run.models['reward'].value_head
  flags = [
    f'--config.{key}={value}'
    for key, value in {
      'data.path': folders / 'prompts.jsonl', 'eval.num_problems': 0,
      'init_from': folders / 'model', **given,
    }.items()
  ]  # fmt: skip
  command = ['--config', 'configs/rl.py:data=jsonl,smoke', *flags]
  assert train.main([*command, '--workdir', str(tmp_path / 'run')]) == 0
  _, lines = log.read(tmp_path / 'run/metrics.jsonl')
  for line in lines:
    assert line['reward'] == pytest.approx(line['rewards/model/mean'])
    assert line['rewards/model/std'] > 0 and line['rewards/model/none'] == 0
  # And judged by it.
  capsys.readouterr()
  held = folders / 'other.jsonl'
  held.write_text((folders / 'prompts.jsonl').read_text().replace('+1', '+2'))
  flags = ['--checkpoint', str(tmp_path / 'run'), '--config.eval.samples=0']
  flags += ['--config.eval.num_problems=4', f'--config.data.eval_path={held}']
  assert evaluate.main(flags) == 0
  found = json.loads(capsys.readouterr().out)
  assert found['eval/reward'] != 0 and np.isfinite(found['eval/reward'])


@pytest.mark.long
def test_evaluate_by_a_folder(folders, tmp_path, capsys):
  data = str(folders / 'prompts.jsonl')
  flags = ['--model', str(folders / 'model'), '--data', data]
  flags += ['--num_samples', '0', '--max_new_tokens', '8', '--rewards']
  assert evaluate.main([*flags, rewards(folders)]) == 0
  found = json.loads(capsys.readouterr().out)
  # The same by hand.
  loaded = inference.load(str(folders / 'model'))
  asked = inference.read_prompts(inference.open_data(data), loaded)
  (made,) = inference.answers(
    loaded, [x.tokens for x in asked], jax.random.key(0), num_samples=1,
    max_new_tokens=8, decoder=inference.make_decoder(0.0, 1.0),
  )  # fmt: skip
  scorer, params = scorer_of(folders / 'llama')
  prompts = [x.columns['prompt'] for x in asked]
  scores = scorer(params, prompts, made.texts)
  assert found['eval/reward'] == pytest.approx(np.mean(scores), abs=1e-5)
  assert evaluate.main([*flags, '[{"name": "model"}]']) == 2
  assert 'give its "path"' in capsys.readouterr().err
  path = str(folders / 'model')
  assert evaluate.main([*flags, rewards(folders, path=path)]) == 2
  assert 'has no value head' in capsys.readouterr().err


def test_scorers_of_entries(folders):
  found = entries.read(json.loads(rewards(folders, label='rm')))
  (scorer,) = reward_models.read_scorers(found).values()
  messages, score = EXPECTED['llama']['texts'][0]
  said = [[[messages[-1]]]]
  np.testing.assert_allclose(
    scorer([messages[:-1]], said), [[score]], atol=1e-4
  )


@pytest.mark.parametrize(
  'items, told',
  [
    ({'init_from': 'llama'}, 'init_from=.*a reward model scores texts'),
    ({'ref.path': 'llama', 'kl.coef': 0.1}, 'ref.path=.*a reward model'),
  ],
)
def test_a_reward_model_writes_nothing(folders, items, told):
  items = {
    key: folders / value if value == 'llama' else value
    for key, value in items.items()
  }
  items['rewards'] = '[{"name": "numeric_match"}]'
  with pytest.raises(ValueError, match=told):
    build.build(config_of(folders, **items))


def pairs_file(path):
  """Eight pairs of conversations."""
  said = lambda text: [{'role': 'assistant', 'content': text}]
  path.write_text(
    ''.join(
      json.dumps({'prompt': ASK, 'chosen': said(f'{i}'), 'rejected': said('x')})
      + '\n'
      for i in range(8)
    )
  )
  return path


def test_a_reward_model_goes_on_as_one(folders, tmp_path):
  pairs = pairs_file(tmp_path / 'pairs.jsonl')
  config = config_of(
    folders, 'configs/preference.py:data=jsonl,recipe=reward_model,smoke',
    **{'data.path': pairs, 'init_from': folders / 'llama',
       'data.max_length': 128},
  )  # fmt: skip
  run = build.build(config)
  assert run.model.value_head
  loaded = roles.read(config, run.models)
  _, params = hf.load(folders / 'llama')
  np.testing.assert_array_equal(
    loaded['policy']['value_head']['kernel'], params['value_head']['kernel']
  )


def test_what_reads_text_is_refused_beside_tokens(folders):
  items = [('rewards', rewards(folders))]
  config = config_lib.load('configs/rl.py:smoke', items)
  with pytest.raises(ValueError, match='reads text, and in-graph tasks'):
    build.build(config)


def test_two_labels_are_no_score(folders, tmp_path):
  shutil.copytree(folders / 'llama', tmp_path / 'two')
  file = tmp_path / 'two/config.json'
  content = json.loads(file.read_text())
  for labels in ({'0': 'a', '1': 'b'}, None):
    file.write_text(json.dumps({**content, 'id2label': labels}))
    with pytest.raises(ValueError, match='id2label has 2 labels; a reward'):
      hf.read_config(tmp_path / 'two')
  shutil.copy(folders / 'llama/config.json', file)
  (tmp_path / 'two/model.safetensors').unlink()
  shutil.copy(folders / 'model/model.safetensors', tmp_path / 'two')
  with pytest.raises(ValueError, match='missing tensors: score.weight'):
    hf.load(tmp_path / 'two')


# ---- Teachers.


def chats(folder):
  file = folder / 'chat.jsonl'
  rows = [
    {'messages': [*ASK, {'role': 'assistant', 'content': f'{i}'}]}
    for i in range(8)
  ]
  file.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return file


def distill(folders, teacher):
  return config_of(
    folders, 'configs/distill.py:data=jsonl,smoke',
    **{'data.path': chats(folders), 'data.max_length': 128,
       'others.teacher': teacher},
  )  # fmt: skip


@pytest.mark.slow
def test_a_bigger_folder_of_the_same_tokenizer_teaches(folders, tmp_path):
  """With rows behind the vocabulary that the student does not have."""
  big = shutil.copytree(folders / 'model', tmp_path / 'big')
  for name in ('model.safetensors', 'config.json'):
    (big / name).unlink()
  size = tokenizers.load(big).vocab_size
  chat_folders.add_weights(big, width=32, vocab_size=size + 24)
  config = distill(folders, big)
  run = build.build(config)
  assert run.models['teacher'].width == 32
  assert run.models['teacher'].vocab_size > run.model.vocab_size
  flags = [f'--config.{key}={value}' for key, value in {
    'data.path': chats(folders), 'data.max_length': 128,
    'others.teacher': big, 'init_from': folders / 'model',
    'eval.num_problems': 0, 'num_steps': 2,
  }.items()]  # fmt: skip
  command = ['--config', 'configs/distill.py:data=jsonl,smoke', *flags]
  assert train.main([*command, '--workdir', str(tmp_path / 'run')]) == 0
  _, lines = log.read(tmp_path / 'run/metrics.jsonl')
  assert all(np.isfinite(line['loss']) and line['loss'] > 0 for line in lines)


def test_another_tokenizer_is_named_by_its_first_other_token(folders, tmp_path):
  other = shutil.copytree(folders / 'model', tmp_path / 'other')
  file = other / 'tokenizer.json'
  content = json.loads(file.read_text())
  vocab = content['model']['vocab']
  first, second = sorted(vocab, key=vocab.get)[40:42]
  vocab[first], vocab[second] = vocab[second], vocab[first]
  file.write_text(json.dumps(content))
  with pytest.raises(ValueError, match='others.teacher=.*token 4[0-9] is "'):
    build.build(distill(folders, other))
  # The same tokens in another place are the same.
  same = shutil.copytree(folders / 'model', tmp_path / 'same')
  build.build(distill(folders, same))


@pytest.mark.parametrize('family', FAMILIES)
def test_a_reward_model_of_every_class_is_saved_and_read(family, tmp_path):
  """Untied decoders too: a class that scores has no matrix to draw tokens."""
  config, params = hf.load(FOLDER / family)
  head = np.random.default_rng(0).normal(size=config.width).astype(np.float32)
  hf.save(tmp_path / 'rm', config, params, score=head, pad_id=0)
  content = json.loads((tmp_path / 'rm' / 'config.json').read_text())
  named = content['architectures'][0]
  assert named.endswith('ForSequenceClassification')
  assert len(content['id2label']) == 1
  read, found = hf.load(tmp_path / 'rm')
  assert read.value_head and 'unembed' not in found
  np.testing.assert_array_equal(found['value_head']['kernel'], head)
  same = lambda a, b: np.testing.assert_array_equal(a, b)
  kept = {k: x for k, x in params.items() if k != 'unembed'}
  found.pop('value_head')
  jax.tree.map(same, found, kept)


@pytest.fixture(params=['qwen2_5', 'llama3'])
def trained(request, tmp_path):
  """(a run that trained a reward model, what ends an answer, whether the
  template writes something behind that)."""
  folder = chat_folders.make(request.param, tmp_path / 'model')
  chat_folders.add_weights(folder, width=16)
  pairs = pairs_file(tmp_path / 'pairs.jsonl')
  flags = {
    'data.path': pairs, 'init_from': folder, 'num_steps': 2,
    'data.max_length': 128, 'checkpoint.every': 2,
  }  # fmt: skip
  spec = 'configs/preference.py:data=jsonl,recipe=reward_model,smoke'
  command = ['--config', spec, '--workdir', str(tmp_path / 'rm')]
  command += [f'--config.{key}={value}' for key, value in flags.items()]
  assert train.main(command) == 0
  return tmp_path / 'rm', request.param == 'qwen2_5'


def scores_of(folder):
  listed = [{'name': 'model', 'path': str(folder)}]
  (scorer,) = reward_models.read_scorers(entries.read(listed)).values()
  return scorer([ASK], [['It is 4.', 'Five, I think.']])


def test_a_run_that_trained_a_reward_model_exports_one(
  trained, tmp_path, capsys
):
  """What judges as the run did is a folder that judges again."""
  run, behind = trained
  out = tmp_path / 'out'
  asked = ['--checkpoint', str(run), '--out', str(out)]
  assert export.main(asked) == 0
  told = capsys.readouterr().out
  assert 'transformers scores the last one' in told
  content = json.loads((out / 'config.json').read_text())
  stop = tokenizers.load(out).stops[0]
  # transformers passes over padding: it must not be what is scored.
  assert content['pad_token_id'] != stop
  assert 'left out: the pad token' in told  # these folders have no other
  # The template of the one writes a line break behind the answer's end, which
  # is then the last token; of the other the two are the same.
  same = np.allclose(scores_of(out), scores_of(run), rtol=1e-4, atol=0)
  assert same == (not behind)
  name = model_folder.tokenizer_of(str(run))
  said = [{'role': 'assistant', 'content': 'It is 4.'}]
  made = formats.tokenize(
    {'prompt': ASK, 'completion': said},
    inference.with_our_stop(name), kind='completion',
  )  # fmt: skip
  ours, params = scorer_of(out)
  tokens, mask = (jnp.asarray([made[key]]) for key in ('tokens', 'loss_mask'))
  found = heads.sequence_values(params, ours.model, tokens, mask)
  np.testing.assert_allclose(found, scores_of(run)[0, :1], rtol=1e-4)
  with_adapter = [*asked[:-1], str(tmp_path / 'a'), '--adapter']
  assert export.main(with_adapter) == 2
