"""What a run takes on chips that are not here (`python -m posttrain_jax.plan`).

chips.py     what one device can do: memory, arithmetic, links
topology.py  names of machines, and their devices without the machines
flops.py     FLOPs of a traced function, loops with their turns
programs.py  the compiled programs of a run
early.py     compiling up to what a plan reads
apart.py     the process that does so
memory.py    bytes of a chip, by what they are for
links.py     bytes between chips, and the time that they need
estimate.py  how long a step may take
gpus.py      GPUs, and TPUs where nothing is compiled, by arithmetic alone
search.py    which other settings of a config to try, in what order
trying.py    trying them
lowering.py  from a config and a machine to compiled programs
making.py    and from these to a plan
show.py      a plan in words, and as JSON
"""
