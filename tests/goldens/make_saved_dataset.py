"""Writes tests/goldens/saved_dataset: a folder that `datasets` saves to disk.

  python tests/goldens/make_saved_dataset.py

Needs `datasets` (made with 5.2.0), which nothing else here does.
"""

from pathlib import Path

import datasets


def turns(question: str, answer: str) -> list[dict[str, str]]:
  return [
    {'role': 'user', 'content': question},
    {'role': 'assistant', 'content': answer},
  ]


def main() -> None:
  rows = {
    'train': [{'messages': turns(f'q{i}', f'a{i}'), 'id': i} for i in range(3)],
    'test': [{'messages': turns('x', 'y'), 'id': 9}],
  }
  splits = {
    name: datasets.Dataset.from_list(records) for name, records in rows.items()
  }
  folder = Path(__file__).parent / 'saved_dataset'
  datasets.DatasetDict(splits).save_to_disk(str(folder))


if __name__ == '__main__':
  main()
