"""How far posttrain_jax is from TRL on every entry: trl/differences.json.

Run by hand, in the default environment, after `make_trl_goldens.py`:
  python tests/goldens/trl_differences.py
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from goldens import trl_ours

HERE = pathlib.Path(__file__).resolve().parent


def differences() -> dict[str, dict]:
  """{entry: relative differences of the loss and of the gradient norms}.

  `grad_norm` is the largest over the global norm and the named ones; `loss` is
  None where only the gradients are the same by design.
  """
  content, batch = trl_ours.load()
  model = trl_ours.Model(batch)
  out = {}
  for name, entry in content['entries'].items():
    ours = model.run(entry)
    norms = [trl_ours.difference(ours['grad_norm'], entry['grad_norm'])]
    for key, theirs in entry['named_grad_norms'].items():
      norms.append(trl_ours.difference(ours['named_grad_norms'][key], theirs))
    loss = trl_ours.difference(ours['loss'], entry['loss'])
    out[name] = {
      'objective': ' + '.join(term['objective'] for term in entry['ours']),
      'loss': loss if trl_ours.has_value(entry) else None,
      'grad_norm': max(norms),
      'how': entry['how'],
      'trl': entry['trl'].replace(':', ''),
      'note': entry['note'],
    }
  return out


def main() -> None:
  found = differences()
  for name, row in found.items():
    loss = '   none' if row['loss'] is None else f'{row["loss"]:.1e}'
    print(f'{loss} {row["grad_norm"]:.1e} {name}')
  text = json.dumps(found, indent=1, sort_keys=True)
  (HERE / 'trl' / 'differences.json').write_text(text + '\n')


if __name__ == '__main__':
  main()
