"""What `python -m posttrain_jax.doctor` looks at, a file for each subject.

Each check returns `Finding`s: what there is, whether a run can work with it,
and what to do. Nothing here touches the devices of this process: those are
tried in a child (`probe`), which may hang without harm.
"""

from posttrain_jax.run.doctor.finding import Finding
from posttrain_jax.run.doctor.whole import examine

__all__ = ['Finding', 'examine']
