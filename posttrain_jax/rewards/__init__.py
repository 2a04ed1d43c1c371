"""What answers earn: of a verifier, of functions in Python, of models.

entries.py  `config.rewards`: which rewards, with which weights
texts/      rewards of texts, each a function with TRL's signature
arrays.py   rewards of verdicts and lengths, in-graph or not
mixing.py   from single scores to their weighted sum, and to metrics
judge.py    calls functions in worker processes (server.py), with time-outs;
            one's own are found by functions.py
answers.py  rewards inside a step: reward models, sums, log-rewards
tokens/     rewards of tokens, beside that of the answer
"""
