"""Stages of training with many seeds, kept on disk, measured alike.

  lab = Lab('runs/forgetting', seeds=range(5))
  base = lab.train('base', config)
  arm = lab.train('sft', other, start=base, hparams={'optimizer.lr': 1e-3})
  found = lab.measure(arm, probe, base)        # {measure: [one for each seed]}

All seeds of a stage train in one program. A stage that is on disk, with equal
config, start, hyperparameters and seeds, is read in place of trained: a study
that was stopped goes on where it was.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import flax as safetensors

from posttrain_jax import log, sweep
from posttrain_jax.core import target
from posttrain_jax.core.keys import EVALUATION, drawn_key, seed_key
from posttrain_jax.core.types import PyTree
from posttrain_jax.lab import files
from posttrain_jax.lab.alike import computes, learns
from posttrain_jax.lab.hparams import Hparam, of_seed, plain, stacked
from posttrain_jax.lab.trained import Trained, digest_of
from posttrain_jax.log import progress
from posttrain_jax.models import adapted
from posttrain_jax.run import (
  accounting,
  checkpoint,
  failed,
  lease,
  manifest,
)
from posttrain_jax.trainers import guard

__all__ = ['Lab']

# What is folded into a seed's key for the problems of a measurement. Choices
# are made on other problems than those that are reported.
SPLITS = {'test': EVALUATION, 'validation': EVALUATION + 1}
FILE = 'stage.json'


class Lab:
  """Trains and measures the stages of a study.

  Args:
    workdir: where stages are kept.
    seeds: of the runs; seed i of a stage starts from seed i of its start.
    bar: shows the stages as they train.
    brief: measurements are small, so that compiling them is most of their cost:
      kernels of a CPU are left unoptimised.
    like: another lab with as many seeds, whose compiled programs this one takes
      and adds to.

  Raises:
    ValueError: `like` has another number of seeds.
  """

  def __init__(
    self,
    workdir: str | Path,
    seeds: Sequence[int],
    bar: progress.Progress | None = None,
    like: 'Lab | None' = None,
    brief: bool = False,
  ):
    self.workdir = Path(workdir)
    self.seeds = tuple(seeds)
    self.commits: set[str] = set()
    self._bar = bar
    quick = brief and target.backend() == 'cpu'
    self._options = {'xla_backend_optimization_level': 0} if quick else None
    self._took: dict[Path, float] = {}
    self._keys = jnp.stack([seed_key(seed) for seed in self.seeds])
    self._told = False
    if like is not None and len(like.seeds) != len(self.seeds):
      raise ValueError(
        f'a lab of {len(self.seeds)} seeds cannot take the programs of one of '
        f'{len(like.seeds)}'
      )
    self._programs: dict[str, sweep.Program] = like._programs if like else {}
    self._probes: dict[Any, Callable] = like._probes if like else {}
    self._mesh = like._mesh if like else sweep.seed_mesh(len(self.seeds))

  @property
  def seconds(self) -> float:
    """Wall time, compiling included, of all that was trained and measured
    here, by this process or by those before it."""
    return sum(self._took.values())

  def count(self, kept: Path, seconds: float, commit: str) -> None:
    """Counts what was measured without a stage, and kept in a file."""
    self._took[kept] = seconds
    self.commits.add(commit)

  def beside(self, seeds: Sequence[int]) -> 'Lab':
    """A lab with other seeds in the same folder, as for choices; what it
    trains counts as this one's time and commits. With as many seeds the two
    share their compiled programs."""
    like = self if len(seeds) == len(self.seeds) else None
    other = Lab(self.workdir, seeds, self._bar, like)
    other.commits, other._took = self.commits, self._took
    return other

  def train(
    self,
    name: str,
    config: Any,
    start: Trained | None = None,
    hparams: Mapping[str, Hparam] | None = None,
    roles: Mapping[str, Trained] | None = None,
    snapshots: Sequence[int] = (),
    draw: int = 0,
  ) -> Trained:
    """Trains `config` with every seed, or reads it where that was done.

    start    its policy is where each seed begins; None: fresh parameters
    hparams  {dotted config key: number, or one a seed} that one program takes
             as inputs, so that a grid of them compiles once
    roles    {'ref' or another of `config.others`: whose policy it is}; a role
             that is not named is the policy as the stage starts
    snapshots  steps at which the policy is kept too (`Trained.snapshots`)
    draw     which of a seed's problems and answers: every number has its own,
             and two stages of one config and number meet the same ones

    A stage on disk that is not what was written is named, moved to `damaged/`
    and trained again.

    Raises:
      ValueError: a config that cannot work, or that needs the host; hparams of
        other seeds; no such snapshot; another process trains the stage.
      failed.NonFinite: a seed's step was not finite; nothing is kept of the
        stage but a record of that step.
    """
    for step in snapshots:
      if not 0 < step < config.num_steps:
        raise ValueError(
          f'stage "{name}": snapshots has {step}, which is not in '
          f'1..{config.num_steps - 1}'
        )
    hparams = plain(hparams, len(self.seeds))
    given = {'policy': start, **(roles or {})}
    given = {role: x for role, x in given.items() if x is not None}
    came_from = {role: x.digest for role, x in given.items()}
    snapshots = sorted(snapshots)
    keys = learns(config) | ({'draw': draw} if draw else {})
    digest = digest_of(keys, hparams, came_from, self.seeds, snapshots)
    folder = self.workdir / 'stages' / f'{name}-{digest}'
    # The file is written last.
    if not (folder / FILE).exists() or not self._is_whole(folder):
      with lease.Lease(folder):
        self._run(name, config, hparams, given, folder, snapshots, draw)
        manifest.write(folder, config.num_steps, digest, '')
    made = self._read(name, config, hparams, folder, digest)
    self.commits.add(made.commit)
    self._took[folder] = made.wall_seconds
    return made

  def _is_whole(self, folder: Path) -> bool:
    """Whether a stage is as it was written; if not, moves it away."""
    wrong = []
    try:
      content = manifest.read(folder)
      wrong = manifest.faults(folder, content['files']) if content else []
    except ValueError as error:
      wrong = [str(error)]
    else:
      if content is None and not self._told:
        self._told = True
        checkpoint.tell(
          f'{folder}: it cannot be verified: it was kept without a manifest, '
          'which older versions did not write (further ones are not told)'
        )
    if not wrong:
      return True
    place = checkpoint.free(self.workdir / checkpoint.DAMAGED / folder.name)
    folder.rename(place)
    checkpoint.tell(f'{folder}: {wrong[0]}; moved to {place}, trained again')
    return False

  def _read(self, name, config, hparams, folder, digest) -> Trained:
    saved = json.loads((folder / FILE).read_text())
    curves = dict(np.load(folder / 'curves.npz'))
    ended = {int(k): x for k, x in saved.get('failed', {}).items()}

    def trained(path: Path, until: int, **more) -> Trained:
      return Trained(
        failed={k: x for k, x in ended.items() if x <= until},
        name=name,
        config=config,
        hparams=hparams,
        commit=saved['commit'],
        wall_seconds=saved['wall_seconds'],
        path=path,
        **more,
      )

    snapshots = {}
    for path in folder.glob('params-*.safetensors'):
      step = int(path.stem.removeprefix('params-'))
      snapshots[step] = trained(
        path,
        step,
        account=tuple(saved['snapshots'][str(step)]),
        curves={k: x[:, :step] for k, x in curves.items()},
        digest=f'{digest}-{step}',
        snapshots={},
      )
    return trained(
      folder / 'params.safetensors',
      config.num_steps,
      account=tuple(saved['account']),
      curves=curves,
      digest=digest,
      snapshots=dict(sorted(snapshots.items())),
    )

  def _run(self, name, config, hparams, given, folder, snapshots, draw) -> None:
    first, count = time.monotonic(), len(self.seeds)
    key, names = digest_of(computes(config), sorted(hparams)), sorted(hparams)
    if key not in self._programs:
      self._programs[key] = sweep.Program(config, names, self._mesh)
    program = self._programs[key]
    values = stacked(hparams, count)
    params = {role: x.params for role, x in given.items()} or None
    keys = jnp.stack([drawn_key(seed, draw) for seed in self.seeds])
    state = program.start(keys, values, params)
    handle = self._bar.task(name, config.num_steps) if self._bar else None
    step, rows, ended = 0, [], {}
    watches = [
      failed.Watch(config.on_nonfinite, config.num_steps) for _ in self.seeds
    ]
    while step < config.num_steps:
      until = min(x for x in (*snapshots, config.num_steps) if x > step)
      began = time.monotonic()
      state, found, done = program.advance(state, keys, values, until - step)
      found = {k: np.asarray(x) for k, x in found.items()}
      what = found.pop(guard.WHAT)
      for index, watch in enumerate(watches):
        bad = None if index in ended else watch.failing(what[index])
        if bad is not None:
          ended[index] = step + bad + 1
          row = {k: float(x[index, bad]) for k, x in found.items()}
          error = failed.NonFinite(
            step + bad + 1, row, what[index, bad], config.on_nonfinite
          )
          error = self._failure(
            folder, config, program.run, hparams, index, state, error, draw
          )
          checkpoint.tell(str(error))
      found['time/step'] = np.full(
        (count, done), (time.monotonic() - began) / done / count
      )
      rows.append(found)
      step += done
      if step in snapshots:
        _save(folder / f'params-{step}.safetensors', state.params)
      if self._bar:
        shown = {
          k: float(np.mean(x[:, -1]))
          for k, x in found.items()
          if k in ('loss', 'reward', 'entropy')
        }
        self._bar.update(handle, step, shown)
    curves = {
      k: np.concatenate([found[k] for found in rows], axis=1) for k in rows[0]
    }
    took = time.monotonic() - first
    _save(folder / 'params.safetensors', state.params)
    self._write(folder, config, program.run, curves, took, snapshots, ended)

  def _failure(self, folder, config, run, hparams, index, state, error, draw):
    """The error of a seed whose step was not finite, with a record."""
    if config.on_nonfinite == 'stop':
      config = config.copy_and_resolve_references()
      config.seed = self.seeds[index]
      own = of_seed(hparams, index)
      place = failed.Together(own, len(self.seeds), index, draw)
      one = jax.tree.map(lambda x: x[index], state)
      error = failed.save(folder, config, run, error, one, {}, place)
    error.args = (f'{folder.name}, seed {self.seeds[index]}: {error}',)
    return error

  def _write(self, folder, config, run, curves, took, snapshots, ended) -> None:
    np.savez(folder / 'curves.npz', **curves)
    flops = accounting.step_flops(config, run.model, run.sizes, run.models)

    def account(until: int) -> list[dict[str, float]]:
      found = []
      for index in range(len(self.seeds)):
        own = {name: x[index, :until] for name, x in curves.items()}
        steps = [dict(zip(own, row)) for row in zip(*own.values())]
        found.append(accounting.account(config, run.sizes, flops, steps))
      return found

    header = log.make_header(config.to_dict())
    saved = {
      'account': account(config.num_steps),
      'snapshots': {step: account(step) for step in snapshots},
      'commit': files.commit_of(header),
      'wall_seconds': took,
      'failed': ended,
      'header': header,
    }
    text = json.dumps(log.strict(saved), indent=1)
    files.write_whole(folder / FILE, text + '\n')

  def measure(
    self,
    trained: Trained,
    probe: Callable[[PyTree, PyTree, jax.Array], dict[str, jax.Array]],
    base: Trained | None = None,
    split: str = 'test',
  ) -> dict[str, list[float]]:
    """{measure: a number or list a seed} of `probe(params, base_params, key)`,
    as `measures.Probe`. Kept beside the stage, by what the probe prints as."""
    parts = [repr(probe), base.digest if base else '', split]
    if trained.rows is not None:  # lent to whom, is in no name of its folder
      parts += [trained.rows, self.seeds]
    what = digest_of(*parts)
    kept = trained.path.with_name(f'{trained.path.stem}-{what}.json')
    if not kept.exists():
      began = time.monotonic()
      found = self._probed(trained, probe, base, split)
      saved = {'values': found, 'wall_seconds': time.monotonic() - began}
      files.write_whole(kept, json.dumps(log.strict(saved)) + '\n')
    saved = json.loads(kept.read_text())
    self._took[kept] = saved['wall_seconds']
    # JSON has no nan: it is kept as text.
    return {k: np.array(x, float).tolist() for k, x in saved['values'].items()}

  def split_keys(self, split: str) -> jax.Array:
    """[S] keys of the problems of a measurement."""
    return jax.vmap(jax.random.fold_in, (0, None))(self._keys, SPLITS[split])

  def _probed(self, trained, probe, base, split) -> dict[str, list[float]]:
    if probe not in self._probes:
      self._probes[probe] = jax.jit(
        sweep.spread(probe, (0, 0 if base else None, 0), self._mesh),
        compiler_options=self._options,
      )
    theirs, keys = base.params if base else None, self.split_keys(split)
    found = self._probes[probe](trained.params, theirs, keys)
    measured = {name: np.array(x, float) for name, x in found.items()}
    for x in measured.values():
      x[list(trained.failed)] = np.nan  # the seed stands where it failed
    return {name: x.tolist() for name, x in measured.items()}


def _save(path: Path, params: PyTree) -> None:
  # What a later stage starts from, or a probe looks at, is the weights.
  flat = traverse_util.flatten_dict(adapted.merged(params), sep='/')
  safetensors.save_file(flat, path)
