"""Run configurations: one file per paradigm, `recipes.py` for named methods."""
