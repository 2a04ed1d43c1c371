"""What SFT and RL gain and keep: `python -m posttrain_jax.quickstart`.

answers.py     what a model answers to problems it was never trained on
training.py    the base and the arms, at equal counted FLOPs
statements.py  frontiers, intervals and the fixed sentences
command.py     the command line, summary.json and the page
"""
