"""What a run is told before it starts: meshes that do not fit, long rows."""

import dataclasses
import re
from types import SimpleNamespace

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from posttrain_jax import train
from posttrain_jax.core import sharding, target
from posttrain_jax.data.tokenizers import TaskTokenizer
from posttrain_jax.models import transformer
from posttrain_jax.models.config import make_config
from posttrain_jax.run import build, notes, sizes
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.state import abstract_state, state_shardings
from posttrain_jax.run.tasks import make_task

GOLDEN = 'tests/goldens/qwen3'


def load(spec='configs/rl.py:smoke', **items):
  pairs = [(key.replace('__', '.'), str(x)) for key, x in items.items()]
  return config_lib.load(spec, pairs)


def told(spec='configs/rl.py:smoke', **items):
  return notes.notes(build.build(load(spec, **items)))


# ---- Axes.


@settings(deadline=None, max_examples=200)
@given(st.permutations([-1, 1, 2]), st.sampled_from([1, 2, 4, 6, 8]))
def test_the_open_axis_takes_what_is_left(sizes, count):
  config = dict(zip(sharding.AXES, sizes))
  if count % 2:
    with pytest.raises(ValueError, match='does not divide the 1 devices'):
      sharding.axis_sizes(config, count)
    return
  found = sharding.axis_sizes(config, count)
  assert found['sequence'] == found['expert'] == 1
  assert [found[axis] for axis in config] == [
    count // 2 if size == -1 else size for size in sizes
  ]


def test_meshes_that_cannot_be():
  for shape, message in (
    ((-1, -1, 1), 'at most one is -1'),
    ((0, 1, 1), 'sizes are positive'),
    ((16, 1, 1), 'needs 16 devices; there are 8'),
    ((3, -1, 1), '3 does not divide the 8 devices'),
  ):
    with pytest.raises(ValueError, match=message):
      sharding.make_mesh(dict(zip(sharding.AXES, shape)))
  mesh = sharding.make_mesh(dict(data=2, fsdp=-1, tensor=1))
  assert dict(mesh.shape) == {'data': 2, 'fsdp': 4, 'tensor': 1}


@settings(deadline=None, max_examples=200)
@given(
  st.lists(
    st.tuples(
      st.sampled_from([None, 'fsdp', 'tensor', ('data', 'fsdp')]),
      st.integers(1, 12),
    ),
    max_size=3,
  ),
  st.tuples(*[st.integers(1, 4)] * 3),
)
def test_a_dimension_is_split_or_named(dimensions, sizes):
  sizes = dict(zip(sharding.AXES, sizes))
  # The same axis twice is no spec.
  spec = P(*(axes for axes, _ in dimensions))
  shape = tuple(size for _, size in dimensions)
  kept = sharding.fit(spec, shape, SimpleNamespace(shape=sizes))
  lost = sharding.unsplit(spec, shape, sizes)
  for (axes, size), now in zip(dimensions, kept):
    names = (axes,) if isinstance(axes, str) else (axes or ())
    parts = 1
    for name in names:
      parts *= sizes[name]
    many = [name for name in names if sizes[name] > 1]
    text = f'{"*".join(many)}={parts} over {size}'
    assert (now is not None) == (parts > 1 and size % parts == 0)
    assert (text in lost) == (parts > 1 and size % parts != 0)


# ---- Parameters.


def test_parameters_that_stay_whole_are_named_by_hand():
  # nano: width 96, 3 heads; the vocabulary of tasks has 64 tokens.
  mesh = dict(data=1, fsdp=1, tensor=2)
  model = make_config('nano')
  assert notes.unsplit_parameters(model, mesh) == (
    'layers/query (tensor=2 over 3)',
    'layers/key (tensor=2 over 3)',
    'layers/value (tensor=2 over 3)',
    'layers/output (tensor=2 over 3)',
  )
  assert notes.unsplit_parameters(make_config('pico'), mesh) == ()
  grouped = dataclasses.replace(make_config('small'), num_kv_heads=2)
  found = notes.unsplit_parameters(grouped, dict(data=1, fsdp=8, tensor=8))
  assert found == ('layers/key (tensor=8 over 2)',
                   'layers/value (tensor=8 over 2)')  # fmt: skip
  assert notes.unsplit_parameters(model, dict(data=8, fsdp=1, tensor=1)) == ()


@pytest.mark.parametrize(
  'width, mesh, near',
  [
    (1024, dict(fsdp=256), 'parts of 4 .* mesh.data=16, mesh.fsdp=16$'),
    (4096, dict(fsdp=256), 'parts of 16 .* mesh.data=4, mesh.fsdp=64$'),
    (4096, dict(data=2, fsdp=128, sequence=2),
     'parts of 16 .* mesh.data=8, mesh.fsdp=32$'),
    (1024, dict(sequence=64), 'parts of 16 .* over all devices$'),
    (1024, dict(data=16, fsdp=16), '^$'),
    (4096, dict(fsdp=64, tensor=4), '^$'),
    (1024, dict(data=256), '^$'),
  ],
)  # fmt: skip
def test_parts_thinner_than_a_tile_are_told_with_copies(width, mesh, near):
  model = dataclasses.replace(make_config('pico'), width=width)
  sizes = {axis: mesh.get(axis, 1) for axis in sharding.AXES}
  line = notes.thin_parts(model, sizes)
  assert re.search(near, line), line
  if near.endswith('$') and 'mesh.' in near:
    better = dict(re.findall(r'mesh\.(\w+)=(\d+)', line))
    nearer = sizes | {axis: int(size) for axis, size in better.items()}
    assert notes.thin_parts(model, nearer) == ''


def test_thin_parts_are_told_of_tpus_alone():
  mesh = {axis: 1 for axis in sharding.AXES} | {'fsdp': 256}
  config = SimpleNamespace(mesh=mesh)
  model = dataclasses.replace(make_config('pico'), width=1024)
  run = SimpleNamespace(config=config, models={'policy': model})
  with target.aimed(target.Target('tpu', 256)):
    (line,) = notes._parts(run)
  assert line.startswith('weights of policy: parts of 4 of 1,024 columns')
  with target.aimed(target.Target('gpu', 256)):
    assert notes._parts(run) == []


def test_what_is_named_is_what_is_not_split():
  run = build.build(load('configs/sft.py:smoke', model__preset='nano'))
  mesh = sharding.make_mesh(dict(data=1, fsdp=4, tensor=2))
  named = notes.unsplit_parameters(run.model, dict(mesh.shape))
  assert named
  flat = lambda tree: {
    '/'.join(str(k.key) for k in path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
  shapes = flat(abstract_state(run).params)
  placed = flat(state_shardings(run, mesh).params)
  table = transformer.param_table(run.model)
  for path, shape in shapes.items():
    parts = 1
    for axes in table[path].spec:
      for axis in (axes,) if isinstance(axes, str) else axes or ():
        parts *= mesh.shape.get(axis, 1)
    shard = placed[path].shard_shape(shape.shape)
    split = shape.size // max(1, jax.numpy.prod(jax.numpy.array(shard)).item())
    assert (split < parts) == any(x.startswith(f'{path} ') for x in named), path


def test_models_that_lose_their_split_are_told_with_their_roles():
  lines = told(
    'configs/preference.py:smoke', mesh__tensor=2, model__preset='nano'
  )
  assert len(lines) == 2 and lines[0].startswith('parameters of policy, ref th')
  assert lines[1].startswith('activations of policy, ref that every device')
  assert lines[1].endswith(': heads (tensor=2 over 3)')
  assert 'layers/key (tensor=2 over 3)' in lines[0]


# ---- Rows.


@pytest.mark.parametrize(
  'items, message',
  [
    (dict(mesh__data=8, prompts_per_step=3, group_size=2),
     'prompts_per_step=3: the 6 rows of a step cannot be split over data x fsdp'
     ' = 8 of the mesh data=8 x fsdp=1 x tensor=1; nearest valid: 4'),
    (dict(mesh__fsdp=8, prompts_per_step=9, group_size=4),
     'nearest valid: 8, 10'),
    (dict(mesh__data=4, microbatch_rows=2),
     'microbatch_rows=2 cannot be split over data x fsdp = 4 of the mesh '
     'data=4 x fsdp=1 x tensor=1; nearest valid: 4, 8, 16'),
    (dict(mesh__data=2, mesh__fsdp=4, minibatch_rows=4),
     'minibatch_rows=4 cannot be split over data x fsdp = 8'),
    (dict(mesh__data=-1, prompts_per_step=1, group_size=4),
     'nearest valid: 2'),
  ],
)  # fmt: skip
def test_rows_that_no_mesh_splits_are_refused(items, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    told(**items)


def test_every_nearest_size_is_one():
  def rows(prompts, fsdp):
    c = load(
      prompts_per_step=prompts, group_size=4, mesh__fsdp=fsdp,
      optimizer__warmup_updates=0,
    )  # fmt: skip
    # Without the functions of a run, which take longer to build.
    found = sizes.resolve(c, make_task(c.task))
    own = dict(config=c, sizes=found, models={}, warmup='')
    run = own | dict(tokenizer=TaskTokenizer(), task=None, step=None)
    run |= dict(batches=None, evaluators={}, on_file=None)
    notes.notes(SimpleNamespace(**run))

  for prompts in range(1, 14):
    for fsdp in (2, 3, 4, 6, 8):
      try:
        rows(prompts, fsdp)
      except ValueError as error:
        assert prompts * 4 % fsdp
        for near in str(error).rpartition('nearest valid: ')[2].split(', '):
          rows(near, fsdp)
      else:
        assert prompts * 4 % fsdp == 0


def test_problems_that_lie_whole_on_every_device_are_told():
  (line,) = told(mesh__data=8, prompts_per_step=4, group_size=4)
  assert line.startswith('prompts_per_step=4 is not split over data x fsdp = 8')
  assert line.endswith('nearest that is: 8')
  assert told(mesh__data=8, prompts_per_step=8) == []
  assert told() == []


def test_a_dry_run_says_them(capsys):
  argv = ['--config', 'configs/rl.py:smoke', '--dry_run',
          '--config.mesh.data=8', '--config.mesh.tensor=3']  # fmt: skip
  assert train.main(argv) == 0
  out = capsys.readouterr().out
  assert 'notes\n  prompts_per_step=4 is not split' in out
  assert 'layers/key (tensor=3 over 1)' in out
  argv.append('--config.prompts_per_step=3')
  assert train.main(argv) == 2
  assert 'error: prompts_per_step=3: the 12 rows' in capsys.readouterr().err


def test_a_run_is_told_on_stderr(capsys):
  run = build.build(load(mesh__data=8, mesh__tensor=3))
  notes.tell(2 * notes.notes(run))
  err = capsys.readouterr().err.splitlines()
  assert len(err) == 3 and all(line.startswith('note: ') for line in err)


# ---- Positions.


def test_rows_beyond_the_positions_of_a_folder_are_told():
  short = dict(init_from=GOLDEN, max_new_tokens=100)
  assert told('configs/sft.py:smoke', **short) == []
  (line,) = told('configs/sft.py:smoke', init_from=GOLDEN, max_new_tokens=512)
  assert 'rows have up to 520 tokens' in line and '128 positions' in line
  assert GOLDEN in line and '(policy)' in line
  # So is each frozen model.
  lines = told('configs/distill.py:smoke', init_from=GOLDEN,
               others__teacher=GOLDEN, max_new_tokens=512)  # fmt: skip
  assert ['(policy)' in lines[0], '(teacher)' in lines[1]] == [True, True]


def test_a_teacher_that_keeps_fewer_tokens_than_k():
  with pytest.raises(ValueError, match=r'loss.k=999: the model has only 64'):
    build.build(load('configs/distill.py:recipe=top_k_teacher', loss__k=999))


def test_a_rate_that_no_update_is_good_for():
  large = lambda **items: [
    line for line in told('configs/sft.py:smoke', **items) if 'moves' in line
  ]
  assert not large(optimizer__lr=0.09)
  (line,) = large(optimizer__lr=10.0)
  assert 'optimizer.lr=10: adamw moves every parameter by about that' in line
  assert not large(optimizer__lr=10.0, optimizer__name='sgd')
  assert 'no parameter moves' in large(optimizer__lr=0.0)[0]


@pytest.mark.parametrize(
  'key, value, less', [('updates', 3, 2), ('ratio', 0.6, 0.5)]
)
def test_a_rate_that_rises_for_most_of_a_run(key, value, less):
  rises = lambda **items: [
    line for line in told('configs/rl.py:smoke', **items) if 'rises' in line
  ]
  (line,) = rises(**{f'optimizer__warmup_{key}': value})
  assert f'warmup_{key}={value}: the learning rate rises for 3 of the 4' in line
  assert not rises(**{f'optimizer__warmup_{key}': less})
