"""Pictures and one self-contained HTML page from a run's metrics files.

  page = report.Report('Title', 'What this is')
  page.text('What was found.')
  page.figure(report.curves(runs, xlabel='step'), 'reward', 'Training reward')
  page.write(workdir / 'report.html')

`python -m posttrain_jax.report FOLDER` makes the page of a quickstart's workdir
again from its summary.json; of a study's folder, its page from results.json
(`study.write`). With `--index` it makes the page over all
studies of a folder (`study.index.write`).
"""

from posttrain_jax.report import study
from posttrain_jax.report.comparison import regenerate, write_comparison
from posttrain_jax.report.page import Report, check_own
from posttrain_jax.report.plots import (
  bars_with_intervals,
  curves,
  panels,
  scatter_frontier,
)

__all__ = [
  'Report',
  'bars_with_intervals',
  'check_own',
  'curves',
  'panels',
  'regenerate',
  'scatter_frontier',
  'study',
  'write_comparison',
]
