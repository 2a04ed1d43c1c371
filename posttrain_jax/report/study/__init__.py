"""The page of one study and the index over all of them.

page.py     `write(results, folder)`, `regenerate(folder)`
index.py    the page over all studies of a folder
data.py     what results.json holds, and its checks
html.py     verdicts, tables and wording
plots.py    figures: curves, bars, frontiers (frame, grids, labels, look)
"""

from posttrain_jax.report.study.page import counted, regenerate, write

__all__ = ['counted', 'regenerate', 'write']
