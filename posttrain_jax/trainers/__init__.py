"""Training steps: `step(state, key_or_batch) -> (state, metrics)`, all pure.

Each module exports `make_step`. `update.py` is the one place where gradients
are taken; `objective.py` turns the losses a config names into what it sums.
"""
