"""EleutherAI's lm-evaluation-harness on a model of ours (extra `lm_eval`).

  python -m posttrain_jax.lm_eval --model FOLDER_OR_RUN --tasks arc_easy \\
      [--tokenizer T] [--max_length N] [its own flags: --limit 100 ...]

All flags but --model, --tokenizer and --max_length are the harness's own
(`--include_path`, `--num_fewshot`, `--apply_chat_template`, `--output_path`,
...). In Python, `register()` makes the model `posttrain_jax` known to it:
lm_eval.simple_evaluate('posttrain_jax', model_args={'path': 'runs/x'}, ...).
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from posttrain_jax.core import boundary, paths
from posttrain_jax.run import inference, runtime
from posttrain_jax.run.harness import Harness

NAME = 'posttrain_jax'


def register() -> type:
  """The class `posttrain_jax` of the harness's models, registered there.

  Raises:
    ImportError: the harness is not installed.
  """
  try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import get_model, register_model
  except ImportError as error:
    raise ImportError(
      f'lm_eval is not installed ({error}): pip install lm_eval'
    ) from error
  try:
    return get_model(NAME)
  except Exception:  # not there yet: how it says so depends on its version
    pass

  @register_model(NAME)
  class Model(LM):
    """`run.harness.Harness` under the names that the harness calls."""

    def __init__(
      self,
      path: str,
      tokenizer: str = '',
      max_length: int = 0,
      batch_size: Any = None,
      **unused: Any,
    ):
      super().__init__()
      del unused  # of the harness: the device, the largest batch
      loaded = inference.load(str(path), tokenizer)
      rows = {} if batch_size in (None, 'auto') else {'rows': int(batch_size)}
      self._harness = Harness(loaded, int(max_length), **rows)

    def loglikelihood(self, requests: list) -> list[tuple[float, bool]]:
      return self._harness.loglikelihood([r.args for r in requests])

    def loglikelihood_rolling(self, requests: list) -> list[float]:
      return self._harness.rolling([r.args[0] for r in requests])

    def generate_until(self, requests: list) -> list[str]:
      return self._harness.generate([r.args for r in requests])

    def apply_chat_template(
      self, chat_history: list, add_generation_prompt: bool = True
    ) -> str:
      return self._harness.chat(chat_history, add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
      return self._harness.loaded.name.replace('/', '__')

    def chat_template(self, chat_template: bool | str = False) -> str:
      if not isinstance(chat_template, bool):
        raise ValueError(
          f'--apply_chat_template {chat_template}: the folder has one template'
        )
      return self.tokenizer_name if chat_template else ''

  return Model


@boundary.command
def main(argv: Sequence[str] | None = None) -> int:
  """The command line; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog='python -m posttrain_jax.lm_eval',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument('--model', required=True, help='a folder or a run')
  parser.add_argument('--tokenizer', default='', help="the model's own")
  parser.add_argument('--max_length', type=int, default=0, help='of a row')
  flags, theirs = parser.parse_known_args(paths.words(argv))
  given = {'path': flags.model}
  given |= {'tokenizer': flags.tokenizer} if flags.tokenizer else {}
  given |= {'max_length': flags.max_length} if flags.max_length else {}
  try:
    odd = next((v for v in map(str, given.values()) if ',' in v), None)
    if odd is not None:
      raise ValueError(f'"{odd}" has a comma, at which the harness cuts')
    register()
    inference.is_run(flags.model)
    runtime.prepare()
  except (ValueError, OSError, ImportError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  from lm_eval.__main__ import cli_evaluate

  told = ','.join(f'{key}={value}' for key, value in given.items())
  before = sys.argv
  sys.argv = ['lm_eval', '--model', NAME, '--model_args', told, *theirs]
  try:
    cli_evaluate()
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  finally:
    sys.argv = before
  return 0


if __name__ == '__main__':
  sys.exit(main())
