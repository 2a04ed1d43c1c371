"""Models that are asked: loaded from anything, streamed, judged on files."""

import functools
import io
import json
import types
from pathlib import Path

import chat_folders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from posttrain_jax import compare, evaluate, rollout, sample
from posttrain_jax.core.types import TrainState
from posttrain_jax.data import formats, tokenizers
from posttrain_jax.data.tokenizers import ByteTokenizer
from posttrain_jax.models import hf, transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout.stream import Stream
from posttrain_jax.run import build, checkpoint, failed, inference, model_folder
from posttrain_jax.run import config as config_lib

BYTES = ByteTokenizer()
NEW = 6
SHORT = ['--max_new_tokens', str(NEW)]


def drawn(model, seed=0):
  """Parameters that say different things of different prompts."""
  rng = np.random.default_rng(seed)
  flat = {
    name: jnp.asarray(rng.normal(size=p.shape), jnp.float32)
    for name, p in transformer.param_table(model).items()
  }
  return traverse_util.unflatten_dict(flat, sep='/')


def tiny(vocab_size, num_layers=1):
  return ModelConfig(
    vocab_size=vocab_size, num_layers=num_layers, width=8, num_heads=1,
    num_kv_heads=1, head_dim=8, mlp_dim=8,
  )  # fmt: skip


MODEL = tiny(BYTES.vocab_size)


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
  """A Hugging Face folder without a tokenizer."""
  out = tmp_path_factory.mktemp('plain') / 'model'
  hf.save(out, MODEL, drawn(MODEL))
  return str(out)


@pytest.fixture(scope='module')
def talks(tmp_path_factory):
  """A folder with a tokenizer and a chat template."""
  out = chat_folders.make('qwen2_5', tmp_path_factory.mktemp('talks'))
  model = tiny(tokenizers.load(out).vocab_size)
  hf.save(out, model, drawn(model))
  return str(out)


@pytest.fixture(scope='module')
def prompts(tmp_path_factory):
  rows = [
    {'prompt': 'one', 'answer': 'a', 'completion': 'x'},
    {'prompt': 'and two <b>', 'answer': '<script>', 'completion': 'yz'},
    {'prompt': 'three', 'answer': 'c', 'completion': 'after all'},
  ]
  path = tmp_path_factory.mktemp('data') / 'prompts.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


def streamed(loaded, prompts, *, seed=0, size=1, how=(0.0, 1.0)):
  """Tokens of answers, one prompt at a time, by prompt and sample."""
  stream = Stream(
    loaded.params, loaded.model, decoder=inference.make_decoder(*how),
    eos_id=loaded.tokenizer.stops,
  )  # fmt: skip
  draw = lambda index, number: list(
    stream(
      prompts[index], jax.random.key(seed), max_new_tokens=NEW,
      prompt_id=index, sample=number,
    )
  )  # fmt: skip
  return [[draw(i, n) for n in range(size)] for i in range(len(prompts))]


@pytest.mark.parametrize(
  'how', [(1.3, 0.8), pytest.param((0.0, 1.0), marks=pytest.mark.long)]
)
def test_a_stream_draws_what_generate_draws(how):
  model = tiny(BYTES.vocab_size, num_layers=2)
  params, decoder = drawn(model), inference.make_decoder(*how)
  ends = tuple(range(1, 60))
  stream = Stream(params, model, decoder=decoder, eos_id=ends)
  asked = [BYTES.encode('one'), BYTES.encode('a longer prompt')]
  width, key = 20, jax.random.key(7)
  tokens = np.zeros((2, width), np.int32)
  for row, ids in enumerate(asked):
    tokens[row, : len(ids)] = ids
  draw = functools.partial(
    rollout.generate, config=model, group_size=2, max_new_tokens=12,
    decoder=decoder, eos_id=ends,
  )  # fmt: skip
  made = jax.jit(draw)(
    params, prompts=jnp.asarray(tokens),
    prompt_mask=jnp.asarray(tokens > 0, jnp.float32), key=key,
  )  # fmt: skip
  seen = set()
  for row, ids in enumerate(asked):
    for number in range(2):
      found = list(
        stream(ids, key, max_new_tokens=12, prompt_id=row, sample=number)
      )
      size = int(made.mask[row, number].sum())
      assert found == made.completion[row, number, :size].tolist()
      seen.add((size, *found))
  assert len(seen) == 2 if how[0] == 0 else len(seen) > 2
  assert len({size for size, *_ in seen}) > 1  # some ended by themselves
  with pytest.raises(ValueError, match='an empty prompt'):
    next(stream([], key, max_new_tokens=1))


@pytest.mark.parametrize('cut', range(1, 9))
def test_pieces_are_the_text(cut):
  ids = BYTES.encode('n\u00e9\u20acok')[:cut]
  found = list(inference.pieces(BYTES, ids))
  assert ''.join(found) == BYTES.decode(ids)
  assert all(found) and tokenizers.UNKNOWN not in ''.join(found[:-1])
  ended = [*ids, BYTES.eos_id, *BYTES.encode('later')]
  assert ''.join(inference.pieces(BYTES, ended)) == BYTES.decode(ids)


def saved_run(workdir, *items):
  """A run of a config that has just begun, saved as its third step."""
  config = config_lib.load('configs/sft.py:smoke', items)
  run = build.build(config)
  failed.save_config(workdir, run.config, run)
  params = transformer.init(jax.random.key(0), run.model)
  with checkpoint.Checkpointer(workdir, keep=1) as saver:
    saver.save(3, TrainState(jnp.int32(3), params, ()))
    saver.wait()
  return run


def test_what_a_model_is_loaded_from(talks, plain, tmp_path):
  folder = inference.load(talks)
  assert folder.turns and folder.step is None
  asked = inference.ask(folder, 'What?')
  turn = {'prompt': [{'role': 'user', 'content': 'What?'}]}
  expected = formats.tokenize(turn, folder.tokenizer, kind='prompt')['tokens']
  assert asked == expected
  assert inference.ask(folder, 'What?', raw=True) == folder.tokenizer.encode(
    'What?'
  )
  run = saved_run(tmp_path / 'run', ('model.preset', 'depth-1'))
  for path in (tmp_path / 'run', tmp_path / 'run' / 'checkpoints' / '3'):
    loaded = inference.load(str(path))
    assert loaded.step == 3 and loaded.model == run.model
    assert not loaded.turns and loaded.tokenizer.stops == (1,)
    assert inference.ask(loaded, '1+2=') == loaded.tokenizer.encode('1+2=')
  goldens = Path(__file__).parent / 'goldens' / 'peft'
  adapter = inference.load(str(goldens / 'lora'), 'task')
  shapes = jax.eval_shape(
    lambda k: transformer.init(k, adapter.model), jax.random.key(0)
  )
  sizes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
  assert sizes(adapter.params) == sizes(shapes)


def test_an_adapter_speaks_with_its_base(talks, tmp_path):
  goldens = Path(__file__).parent / 'goldens' / 'peft'
  assert model_folder.tokenizer_of(str(goldens / 'lora')) == ''
  content = json.loads((goldens / 'lora' / 'adapter_config.json').read_text())
  content['base_model_name_or_path'] = talks
  (tmp_path / 'adapter_config.json').write_text(json.dumps(content))
  assert model_folder.tokenizer_of(str(tmp_path)) == talks
  assert model_folder.stored_dtype(str(tmp_path)) == 'float32'
  (tmp_path / 'tokenizer.json').write_text('{}')
  assert model_folder.tokenizer_of(str(tmp_path)) == str(tmp_path)


def command(main, capsys, *flags):
  assert main([str(flag) for flag in flags]) == 0
  return capsys.readouterr().out


def test_one_prompt_is_answered(talks, capsys):
  loaded = inference.load(talks)
  flags = ['--model', talks, '--prompt', 'Hi', *SHORT]
  said = command(sample.main, capsys, *flags, '--seed', 5, '--num_samples', 2)
  prompt = inference.ask(loaded, 'Hi')
  (rows,) = streamed(loaded, [prompt], seed=5, size=2, how=(1.0, 1.0))
  texts = [loaded.tokenizer.decode(row) for row in rows]
  assert said == f'--- 1 of 2\n{texts[0]}\n--- 2 of 2\n{texts[1]}\n'


@pytest.mark.parametrize('positions, asked, given, said', [
  (256, None, 246, ''), (0, None, 256, ''), (4096, None, 256, ''),
  (256, 256, 256, 'has up to 266'), (8, None, 256, 'was made for 8'),
])  # fmt: skip
def test_new_tokens_fit_into_positions(positions, asked, given, said, capsys):
  """Unless a flag says how many; what then does not fit is told."""
  model = types.SimpleNamespace(max_length=positions, position_limit=0)
  loaded = types.SimpleNamespace(model=model, name='x')
  flags = types.SimpleNamespace(max_new_tokens=asked)
  assert sample._room(loaded, 10, flags) == given
  told = capsys.readouterr().err.replace('rows have up', 'has up')
  assert said in told and bool(told) == bool(said)


@pytest.mark.long
def test_a_file_is_answered(plain, prompts, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(inference, 'ROWS', 4)  # two batches, one of them in part
  out = tmp_path / 'answers.jsonl'
  flags = ['--model', plain, '--tokenizer', 'byte', '--data', prompts, *SHORT]
  told = command(sample.main, capsys, *flags, '--out', out, '--num_samples', 2)
  assert told == f'wrote 6 answers to {out}\n'
  lines = [json.loads(line) for line in out.read_text().splitlines()]
  loaded = inference.load(plain, 'byte')
  asked = [BYTES.encode(line['prompt']) for line in lines[::2]]
  rows = streamed(loaded, asked, size=2, how=(1.0, 1.0))
  texts = [BYTES.decode(row) for group in rows for row in group]
  assert [line['completion'] for line in lines] == texts
  assert [line['reference'] for line in lines][::2] == ['x', 'yz', 'after all']
  assert lines[0]['answer'] == 'a' and isinstance(lines[0]['finished'], bool)
  # It is not written over.
  assert sample.main([*flags, '--out', str(out)]) == 2


@pytest.mark.long
def test_a_chat_goes_on(talks, capsys):
  loaded = inference.load(talks)
  flags = sample._parser().parse_args(['--model', talks, *SHORT])
  flags.temperature = 0.0
  lines = ['Hi\n', 'And?\n', '\n', 'Hi\n']
  said = list(sample.chat(loaded, flags, lines, io.StringIO()))
  turns = [{'role': 'user', 'content': 'Hi'},
           {'role': 'assistant', 'content': said[0]},
           {'role': 'user', 'content': 'And?'}]  # fmt: skip
  asked = [
    formats.tokenize({'prompt': x}, loaded.tokenizer, kind='prompt')['tokens']
    for x in (turns[:1], turns)
  ]
  rows = streamed(loaded, asked)
  texts = [loaded.tokenizer.decode(group[0]) for group in rows]
  assert said == [*texts, texts[0]]


def test_answers_of_a_file_are_scored(plain, prompts, capsys):
  flags = ['--model', plain, '--tokenizer', 'byte', '--data', prompts]
  found = json.loads(command(evaluate.main, capsys, *flags))
  loaded = inference.load(plain, 'byte')
  apply = jax.jit(lambda p, x: transformer.apply(p, MODEL, x)[0])
  total, hits, count = 0.0, 0, 0
  for line in Path(prompts).read_text().splitlines():
    row = json.loads(line)
    prompt, answer = (
      BYTES.encode(row['prompt']),
      BYTES.encode(row['completion']),
    )
    ids = [*prompt, *answer, BYTES.eos_id]
    width = [*ids, *[0] * (24 - len(ids))]  # one program for all
    logits = np.asarray(apply(loaded.params, np.asarray([width])))[0]
    logps = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    for place in range(len(prompt), len(ids)):
      total -= logps[place - 1, ids[place]]
      hits += int(logps[place - 1].argmax() == ids[place])
      count += 1
  assert found['eval/loss'] == pytest.approx(total / count, rel=1e-5)
  assert found['eval/perplexity'] == pytest.approx(
    np.exp(total / count), rel=1e-4
  )
  assert found['eval/token_accuracy'] == pytest.approx(hits / count)
  assert found['eval/loss_tokens'] == count and found['eval/records'] == 3


@pytest.mark.long
def test_own_answers_are_judged(plain, tmp_path, capsys):
  path = tmp_path / 'x.jsonl'
  path.write_text(''.join(f'{{"prompt": "{c * 3}"}}\n' for c in 'abcde'))
  length = [{'name': 'length', 'weight': 2.0}]
  flags = ['--model', plain, '--tokenizer', 'byte', '--data', path, *SHORT,
           '--rewards', json.dumps(length), '--num_samples', 4,
           '--temperature', 0.001]  # fmt: skip
  found = json.loads(command(evaluate.main, capsys, *flags))
  loaded = inference.load(plain, 'byte')
  asked = [BYTES.encode(c * 3) for c in 'abcde']
  rows = streamed(loaded, asked)
  size = np.mean([len(group[0]) for group in rows])
  assert found['eval/length'] == pytest.approx(size)
  assert found['eval/reward'] == pytest.approx(-2 * size / NEW, rel=1e-5)
  assert found['eval/prompts'] == 5 and 'eval/loss' not in found
  assert {'eval/pass@4', 'eval/maj@4', 'eval/ece'} <= set(found)
  # Samples that are as good as greedy.
  assert found['eval/reward_sampled'] == pytest.approx(found['eval/reward'])


def test_what_is_undefined_is_null(monkeypatch, capsys):
  scores = {'one': float('nan'), 'two': 2.0, 'step': None}
  monkeypatch.setattr(evaluate, '_of_data', lambda *_: scores)
  out = command(evaluate.main, capsys, '--model', 'x', '--data', 'y')
  assert json.loads(out) == {'one': None, 'two': 2.0, 'step': None}


@pytest.mark.long
def test_a_page_of_answers(plain, talks, prompts, tmp_path, capsys):
  out, length = tmp_path / 'page', json.dumps([{'name': 'length'}])
  told = command(
    compare.main, capsys, '--models', plain, talks, '--tokenizer', 'byte',
    '--data', prompts, *SHORT, '--rewards', length, '--out', out,
  )  # fmt: skip
  assert 'reward' in told and f'wrote {out / "index.html"}' in told
  page = (out / 'index.html').read_text()
  assert 'and two &lt;b&gt;' in page and '<b>' not in page
  assert '<script' not in page and 'http' not in page
  loaded = inference.load(plain, 'byte')
  lines = (out / 'answers.jsonl').read_text().splitlines()
  asked = [BYTES.encode(json.loads(line)['prompt']) for line in lines]
  rows = streamed(loaded, asked)
  for line, (ids,) in zip(map(json.loads, lines), rows):
    assert line['answers'][plain] == BYTES.decode(ids)
    assert line['rewards'][plain] == pytest.approx(-len(ids) / NEW)
    assert set(line['answers']) == {plain, talks}


BAD = [
  (sample, '--model NONE --prompt x', 'NONE: there is no such folder'),
  (sample, '--model HERE --prompt x', 'is no run, no model folder of Hugging'),
  (sample, '--model PLAIN --prompt x', 'has no tokenizer'),
  (sample, '--model PLAIN --promt x', 'unknown flag "--promt". Did you mean '
   '"--prompt"?'),
  (sample, '--model PLAIN --tokenizer byte --prompt=',
   'column "prompt": an empty string'),
  (sample, '--model PLAIN --prompt x --temperature -1', '--temperature=-1'),
  (sample, '--model PLAIN --prompt x --top_p 0', '--top_p=0'),
  (sample, '--model PLAIN --prompt x --max_new_tokens 0', '--max_new_tokens=0'),
  (sample, '--model PLAIN --prompt x --num_samples 0', '--num_samples=0'),
  (sample, '--model PLAIN --prompt x --temperature 0 --top_p 0.5', '--top_p'),
  (sample, '--model PLAIN --data DATA', '--out is missing'),
  (sample, '--model PLAIN', 'this is no terminal'),
  (sample, '--model PLAIN --tokenizer byte --data TEXTS --out NEW',
   'texts.jsonl:1: no column "prompt"'),
  (sample, '--model PLAIN --tokenizer byte --data NONE --out NEW', 'NONE'),
  (evaluate, '--model PLAIN', 'is no run, and has no task: give --data'),
  (evaluate, '--model PLAIN --config.task.name=addition --config.init_from=x',
   '--config.init_from=x: what is evaluated is --model'),
  (evaluate, '--model PLAIN --seed 1', '--seed is for --data'),
  (evaluate, '--model PLAIN --data TEXTS', 'has no tokenizer'),
  (evaluate, '--model PLAIN --data TEXTS --config.seed=1', '--config.seed'),
  (evaluate, '--model PLAIN --data ASKS', '--rewards says what'),
  (evaluate, '--model PLAIN --data ASKS --rewards [x', 'is no JSON'),
  (evaluate, '--model PLAIN --data ASKS --rewards '
   '[{"name":"regex","name":"length"}]', 'a key stands twice'),
  (evaluate, '--model PLAIN --data ASKS --rewards [{"name":"lenght"}]',
   'Did you mean "length"?'),
  (evaluate, '--model PLAIN --data ASKS --rewards [{"name":"verifier"}]',
   '"verifier" is of a run'),
  (evaluate, '--model PLAIN --data ASKS --rewards [{"name":"length","low":-1}]',
   'rewards[0].low=-1'),
  (evaluate, '--model PLAIN --tokenizer byte --data TEXTS --rewards '
   '[{"name":"length"}]', 'no column "prompt"'),
  (compare, '--models PLAIN --data DATA --out NEW', 'is one model'),
  (compare, '--models PLAIN PLAIN --data DATA --out NEW', 'is there twice'),
]  # fmt: skip


@pytest.mark.parametrize('module, line, told', BAD)
def test_what_is_refused(
  module, line, told, plain, prompts, tmp_path, capsys, monkeypatch
):
  (tmp_path / 'texts.jsonl').write_text('{"text": "a"}\n')
  (tmp_path / 'asks.jsonl').write_text('{"prompt": "a"}\n')
  monkeypatch.setattr('sys.stdin', io.StringIO())
  places = {
    'NONE': tmp_path / 'NONE', 'HERE': tmp_path, 'PLAIN': plain,
    'DATA': prompts, 'TEXTS': tmp_path / 'texts.jsonl', 'NEW': tmp_path / 'new',
    'ASKS': tmp_path / 'asks.jsonl',
  }  # fmt: skip
  argv = [str(places.get(word, word)) for word in line.split()]
  assert module.main(argv) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and told in error, error
  assert len(error.splitlines()) == 1
