"""A folder is one thing: what a run that starts from it takes along."""

import json

import chat_folders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chat_folders import AGAIN, ASK, MORE, TELL
from flax import traverse_util

from posttrain_jax import export, log, rollout
from posttrain_jax.core.types import Rollout, TrainState
from posttrain_jax.data import chat, formats, tokenizers
from posttrain_jax.models import hf, transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.run import build, checkpoint, failed, loop, model_folder
from posttrain_jax.run import config as config_lib

RECORDS = [{'messages': [ASK, TELL, AGAIN, MORE]}, {'messages': [ASK, TELL]}]
CONFIG = 'configs/sft.py:data=jsonl,smoke'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A model folder in the style of Qwen2.5, its weights in bfloat16."""
  out = chat_folders.make('qwen2_5', tmp_path_factory.mktemp('model'))
  size = tokenizers.load(out).vocab_size
  model = ModelConfig(
    vocab_size=size, num_layers=1, width=8, num_heads=1, num_kv_heads=1,
    head_dim=8, mlp_dim=8,
  )  # fmt: skip
  rng = np.random.default_rng(0)
  flat = {
    name: jnp.asarray(rng.normal(size=p.shape), jnp.bfloat16)
    for name, p in transformer.param_table(model).items()
  }
  hf.save(out, model, traverse_util.unflatten_dict(flat, sep='/'))
  return out


@pytest.fixture
def file(tmp_path):
  path = tmp_path / 'x.jsonl'
  path.write_text(''.join(json.dumps(r) + '\n' for r in RECORDS))
  return path


def config_of(file, **items):
  items = {'data.path': str(file), 'data.max_length': 400, **items}
  return config_lib.load(CONFIG, [(k, str(v)) for k, v in items.items()])


def saved_run(folder, file, workdir, start=None):
  """A run with the weights of a folder that started there, or from a run."""
  config = config_of(file, init_from=start or folder)
  run = build.build(config)
  failed.save_config(workdir, config, run)
  _, params = hf.load(folder)
  with checkpoint.Checkpointer(workdir, keep=1) as saver:
    saver.save(1, TrainState(jnp.int32(1), params, ()))
    saver.wait()
  return run


def test_what_a_run_speaks_with(folder, file, tmp_path):
  start = lambda **items: model_folder.choose(config_of(file, **items))
  assert start() == 'byte'
  assert start(init_from=folder) == str(folder)
  text = config_lib.load('configs/rl.py:smoke', [])
  text.task.name = 'text:chain_sum'
  assert model_folder.choose(text) == 'byte'
  # What is given stays; what was chosen is found again.
  config = config_of(file, tokenizer='byte', init_from=folder)
  assert model_folder.settled(config) is config
  run = saved_run(folder, file, tmp_path / 'run')
  assert run.config.tokenizer == str(folder)
  saved = checkpoint.load_config(tmp_path / 'run')
  assert saved['config']['tokenizer'] == str(folder)
  assert saved['chat_template'] == 'folder'
  assert saved['init_dtype'] == 'bfloat16'
  assert start(init_from=tmp_path / 'run') == str(folder)
  with pytest.raises(ValueError, match='no checkpoint under'):
    start(init_from=tmp_path / 'nowhere')


def test_a_folder_without_a_tokenizer_brings_none(folder, file, tmp_path):
  for name in ('config.json', 'model.safetensors'):
    (tmp_path / name).write_bytes((folder / name).read_bytes())
  with pytest.raises(ValueError, match='has no tokenizer.json, and its model'):
    model_folder.choose(config_of(file, init_from=tmp_path))
  task = config_lib.load('configs/sft.py', [('init_from', str(tmp_path))])
  assert model_folder.choose(task) == 'task'
  (tmp_path / 'tokenizer.model').write_text('')
  with pytest.raises(ValueError, match='tokenizer.model there is the older'):
    build.build(config_of(file, init_from=tmp_path))


def test_rows_are_written_by_the_template(folder, file):
  run = build.build(config_of(file, init_from=folder))
  batch = next(run.batches())
  rows = {
    tuple(tokens[ids > 0].tolist())
    for tokens, ids in zip(batch['tokens'], batch['segment_ids'])
  }
  expected = {
    tuple(formats.tokenize(record, run.tokenizer)['tokens'])
    for record in RECORDS
  }
  assert rows == expected
  assert all('Small' in run.tokenizer.decode(row) for row in rows)


def test_an_in_graph_task_does_not_speak_a_folders_tokens(folder):
  config = config_lib.load('configs/sft.py:smoke', [('init_from', str(folder))])
  with pytest.raises(ValueError, match='in-graph tasks speak the vocabulary'):
    build.build(config)


def test_a_run_from_before_the_template_was_read(
  folder, file, tmp_path, capsys
):
  run = saved_run(folder, file, tmp_path)
  config = run.config
  loop.check_continues(config, tmp_path)
  # 'auto' is what it was.
  loop.check_continues(config_of(file, init_from=folder), tmp_path)
  model_folder.check_template(config, run, tmp_path)
  assert 'tokenised apart' not in capsys.readouterr().err
  saved = checkpoint.load_config(tmp_path)
  del saved['chat_template']
  checkpoint.save_config(tmp_path, saved)
  with pytest.raises(ValueError, match='began without the chat template'):
    model_folder.check_template(config, run, tmp_path)
  saved['conversations'] = False
  checkpoint.save_config(tmp_path, saved)
  model_folder.check_template(config, run, tmp_path)
  assert 'were tokenised apart' in capsys.readouterr().err


def test_export_gives_back_what_came_in(folder, file, tmp_path):
  saved_run(folder, file, tmp_path / 'run')
  out = tmp_path / 'out'
  export.export(tmp_path / 'run', out)
  for name in (
    'tokenizer.json',
    'tokenizer_config.json',
    'chat_template.jinja',
  ):
    assert (out / name).read_bytes() == (folder / name).read_bytes()
  tokenizer = tokenizers.load(out)
  stops = [tokenizer.special_id(n) for n in ('<|im_end|>', '<|endoftext|>')]
  made = json.loads((out / 'generation_config.json').read_text())
  assert made == {
    'eos_token_id': stops, 'pad_token_id': stops[0], 'top_k': 5,
  }  # fmt: skip
  content = json.loads((out / 'config.json').read_text())
  assert content['eos_token_id'] == stops
  assert content['torch_dtype'] == 'bfloat16'
  before, after = hf.load(folder)[1], hf.load(out)[1]
  jax.tree.map(np.testing.assert_array_equal, before, after)
  # A run that goes on from that run, and another type.
  saved_run(folder, file, tmp_path / 'later', tmp_path / 'run')
  export.export(tmp_path / 'later', tmp_path / 'again')
  for path in out.iterdir():
    assert (tmp_path / 'again' / path.name).read_bytes() == path.read_bytes()
  export.export(tmp_path / 'run', tmp_path / 'wide', 'float32')
  content = json.loads((tmp_path / 'wide' / 'config.json').read_text())
  assert content['torch_dtype'] == 'float32'


def test_all_files_of_a_tokenizer_come_along(folder, file, tmp_path):
  base = tmp_path / 'base'
  base.mkdir()
  for path in folder.iterdir():
    (base / path.name).write_bytes(path.read_bytes())
  more = ('vocab.json', 'merges.txt', 'tokenizer.model', 'added_tokens.json')
  for name in more:
    (base / name).write_text('{}')
  (base / 'additional_chat_templates').mkdir()
  (base / 'additional_chat_templates' / 'tool_use.jinja').write_text('x')
  saved_run(base, file, tmp_path / 'run')
  report = export.export(tmp_path / 'run', tmp_path / 'out')
  for name in (*more, 'additional_chat_templates/tool_use.jinja'):
    assert (tmp_path / 'out' / name).exists()
    assert any(name in line for line in report)


def test_a_dated_template_is_told(folder, file, tmp_path):
  from posttrain_jax.run import notes

  run = build.build(config_of(file, init_from=folder))
  assert not any('day of today' in line for line in notes.notes(run))
  for path in folder.iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  template = (chat_folders.FOLDER / 'llama3.jinja').read_text()
  template = template.replace('<|eot_id|>', '<|im_end|>')
  (tmp_path / 'chat_template.jinja').write_text(template)
  run = build.build(config_of(file, init_from=tmp_path))
  assert any('day of today' in line for line in notes.notes(run))
  assert chat.stop_id(run.tokenizer) == run.tokenizer.special_id('<|im_end|>')


@pytest.mark.slow
@pytest.mark.parametrize('method, spec', [
  ('sft', 'configs/sft.py:data=jsonl'),
  ('dpo', 'configs/preference.py:data=jsonl,recipe=dpo'),
])  # fmt: skip
def test_losses_on_rows_of_chat_are_those_of_trl(method, spec, tmp_path):
  folder = chat_folders.add_weights(
    chat_folders.make('qwen2_5', tmp_path / 'model')
  )
  rows = chat_folders.ROWS[method]
  path = tmp_path / 'rows.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  items = {
    'data.path': path, 'init_from': folder, 'data.after_stop': 'true',
    'num_steps': chat_folders.STEPS, 'prompts_per_step': len(rows),
    'optimizer.lr': chat_folders.RATE, 'optimizer.schedule': 'constant',
    'optimizer.warmup_updates': 0, 'eval.num_problems': 0,
    'log.tensorboard': 'false',
  }  # fmt: skip
  config = config_lib.load(spec, [(k, str(v)) for k, v in items.items()])
  loop.train(config, tmp_path / 'run')
  _, found = log.read(tmp_path / 'run')
  found = [[row['loss'], row['grad_norm']] for row in found]
  expected = json.loads(chat_folders.LOSSES.read_text())[method]
  found, expected = np.array(found).T, np.array(expected).T
  np.testing.assert_allclose(found[0], expected[0], atol=1e-5, rtol=0)
  np.testing.assert_allclose(found[1], expected[1], rtol=1e-4)


def given_answers(tokenizer):
  """A `rollout.generate` whose answers are those of ANSWERS."""
  answers = chat_folders.answer_ids(tokenizer.encode, chat.stop_id(tokenizer))
  asked = [
    chat.prompt_tokens(tokenizer, row['prompt'])
    for row in chat_folders.ROWS['grpo']
  ]
  width, longest = max(map(len, asked)), chat_folders.LONGEST
  known = np.array([row + [-1] * (width - len(row)) for row in asked])
  fill = lambda of: np.array(
    [[of(row) + [0] * (longest - len(row)) for row in x] for x in answers]
  )
  tokens, real = fill(list), fill(lambda row: [1] * len(row))
  ended = np.array([[row[-1] == chat.stop_id(tokenizer) for row in x]
                    for x in answers])  # fmt: skip

  def generate(params, model, prompts, prompt_mask, key, **options):
    assert options['group_size'] == tokens.shape[1]
    assert options['max_new_tokens'] == longest
    read = jnp.where(prompt_mask > 0, prompts, -1)[:, :width]
    same = jnp.all(read[:, None] == known[None], axis=-1)
    index = jnp.argmax(same, axis=1)
    draft = Rollout(
      jnp.asarray(tokens, jnp.int32)[index],
      jnp.asarray(real, jnp.float32)[index],
      jnp.zeros((len(prompts), *tokens.shape[1:])),
      jnp.asarray(ended, jnp.float32)[index],
    )
    rows = rollout.assemble_groups(prompts, prompt_mask, draft)
    found = transformer.token_logps(
      params, model, rows.tokens, rows.mask,
      positions=rows.positions, segment_ids=rows.segment_ids,
    )  # fmt: skip
    # A prompt that is none of the known ones would have no probability.
    sure = jnp.where(jnp.any(same, axis=1), 0.0, jnp.nan)[:, None, None]
    at = jnp.sum(prompt_mask > 0, axis=1).astype(int)
    logps = found.logps.reshape(len(prompts), -1, rows.tokens.shape[1])
    columns = at[:, None, None] + jnp.arange(longest)[None, None]
    columns = jnp.broadcast_to(columns, draft.mask.shape)
    own = jnp.take_along_axis(logps, columns, axis=2) * draft.mask
    return draft.replace(logps=own + sure)

  return generate


@pytest.mark.slow
def test_grpo_on_given_answers_is_that_of_trl(tmp_path, monkeypatch):
  folder = chat_folders.add_weights(
    chat_folders.make('qwen2_5', tmp_path / 'model')
  )
  rows = chat_folders.ROWS['grpo']
  path = tmp_path / 'rows.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  monkeypatch.setattr(rollout, 'generate', given_answers(
    tokenizers.load(folder)
  ))  # fmt: skip
  items = {
    'data.path': path, 'init_from': folder,
    'rewards': '[{"name": "chat_folders:worth"}]',
    'num_steps': chat_folders.GRPO_STEPS, 'prompts_per_step': len(rows),
    'group_size': len(chat_folders.ANSWERS[0]),
    'max_new_tokens': chat_folders.LONGEST,
    'optimizer.lr': chat_folders.RATE, 'optimizer.schedule': 'constant',
    'optimizer.warmup_updates': 0, 'eval.num_problems': 0,
    'heldout_fraction': 0, 'log.tensorboard': 'false',
  }  # fmt: skip
  config = config_lib.load(
    'configs/rl.py:recipe=grpo,data=jsonl',
    [(k, str(v)) for k, v in items.items()],
  )
  loop.train(config, tmp_path / 'run')
  _, found = log.read(tmp_path / 'run')
  found = np.array(
    [[row['loss'], row['grad_norm'], row['reward']] for row in found
     if row['split'] == 'train']
  ).T  # fmt: skip
  expected = np.array(json.loads(chat_folders.LOSSES.read_text())['grpo']).T
  np.testing.assert_allclose(found[2], expected[2], atol=1e-6)
  np.testing.assert_allclose(found[0], expected[0], atol=1e-5, rtol=0)
  np.testing.assert_allclose(found[1], expected[1], rtol=1e-4)


class Seen(Exception):
  """Stands for a rollout: what it is given is all that is asked."""


def test_sampling_stops_at_every_stop_token(folder, monkeypatch):
  items = {
    'init_from': folder, 'task.prompt_length': 200, 'task.completion_length': 8,
  }  # fmt: skip
  config = config_lib.load(
    'configs/rl.py:task=text:chain_sum,smoke',
    [(k, str(v)) for k, v in items.items()],
  )
  run = build.build(config)
  assert run.config.tokenizer == str(folder)
  seen = []

  def generate(*args, eos_id, **options):
    seen.append(eos_id)
    raise Seen

  monkeypatch.setattr(rollout, 'generate', generate)
  key, rows = jax.random.key(0), jnp.ones((1, 4))
  with pytest.raises(Seen):
    run.step.generate({}, rows, rows, rows[:, 0], key)
  with pytest.raises(Seen):
    run.evaluators['']._generate({}, rows, rows, rows[:, 0], key=key, size=0)
  stops = [run.tokenizer.special_id(n) for n in ('<|im_end|>', '<|endoftext|>')]
  assert seen == [tuple(stops)] * 2
