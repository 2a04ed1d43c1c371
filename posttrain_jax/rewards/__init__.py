"""From what a verifier found to rewards.

answers.py  rewards of whole answers: a reward model's score, log-rewards
tokens/     rewards of tokens, beside that of the answer
"""
