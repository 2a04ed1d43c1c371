"""What a model can do, and how sure the numbers are.

in_graph.py  `Evaluator`: greedy accuracy, pass@k, votes, beams, in one program
on_host.py   the same for tasks whose verifier is Python
on_file.py   loss, perplexity and token accuracy on the records of a file
score.py     every evaluator of a run, as one dict of numbers
measures/    what an arm did to a model: diversity, calibration, divergences
statistics/  intervals, paired tests, the rule that judges a claim
"""
