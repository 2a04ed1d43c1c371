"""Files of questions with known answers, for a small model that talks.

python -m experiments.real_model.files --out data

sums_chat.jsonl     sums as conversations, to learn from (SFT)
sums_prompts.jsonl  the same questions with their answers alone (RL)
sums_learnt.jsonl   some of these, to choose a learning rate by
sums_test.jsonl     sums of other pairs of numbers
kept_test.jsonl     capitals: what the model knew before and should keep
"""

import argparse
import json
import random
import sys
from pathlib import Path

# Of the sums a + b: the smaller number, the larger one.
SMALL, LARGE = range(2, 10), range(2, 40)
TESTED, CHOOSING = 96, 60
ASKED = 'What is {} + {}?'
CAPITALS = """\
Argentina Buenos Aires|Australia Canberra|Austria Vienna|Bangladesh Dhaka|
Belgium Brussels|Brazil Brasília|Bulgaria Sofia|Cambodia Phnom Penh|
Canada Ottawa|Chile Santiago|China Beijing|Colombia Bogotá|Croatia Zagreb|
Cuba Havana|Denmark Copenhagen|Ecuador Quito|Egypt Cairo|
Ethiopia Addis Ababa|Finland Helsinki|France Paris|Georgia Tbilisi|
Germany Berlin|Ghana Accra|Greece Athens|Hungary Budapest|Iceland Reykjavik|
India New Delhi|Indonesia Jakarta|Iran Tehran|Iraq Baghdad|Ireland Dublin|
Israel Jerusalem|Italy Rome|Jamaica Kingston|Japan Tokyo|Jordan Amman|
Kenya Nairobi|Latvia Riga|Lebanon Beirut|Libya Tripoli|Lithuania Vilnius|
Malaysia Kuala Lumpur|Mali Bamako|Mexico Mexico City|Mongolia Ulaanbaatar|
Morocco Rabat|Nepal Kathmandu|Netherlands Amsterdam|Nigeria Abuja|
Norway Oslo|Pakistan Islamabad|Peru Lima|Poland Warsaw|Portugal Lisbon|
Romania Bucharest|Russia Moscow|Senegal Dakar|Serbia Belgrade|
Slovakia Bratislava|Spain Madrid|Sudan Khartoum|Sweden Stockholm|
Switzerland Bern|Syria Damascus|Thailand Bangkok|Tunisia Tunis|
Turkey Ankara|Uganda Kampala|Ukraine Kyiv|Uruguay Montevideo|
Venezuela Caracas|Vietnam Hanoi|Zambia Lusaka|Zimbabwe Harare"""


def sums(seed: int = 0) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
  """(pairs to learn from, pairs to test), in either order; no sum's two numbers
  stand in both."""
  unordered = sorted({(min(a, b), max(a, b)) for a in SMALL for b in LARGE})
  draw = random.Random(seed)
  draw.shuffle(unordered)
  turned = [pair if draw.random() < 0.5 else pair[::-1] for pair in unordered]
  return turned[TESTED:], turned[:TESTED]


def _user(text: str) -> dict[str, str]:
  return {'role': 'user', 'content': text}


def prompt(pair: tuple[int, int]) -> dict:
  return {
    'prompt': [_user(ASKED.format(*pair))],
    'answer': str(sum(pair)),
  }


def chat(pair: tuple[int, int]) -> dict:
  a, b = pair
  said = {'role': 'assistant', 'content': f'{a} + {b} = {a + b}.'}
  return {'messages': [_user(ASKED.format(a, b)), said]}


def kept() -> list[dict]:
  found = []
  for entry in CAPITALS.replace('\n', '').split('|'):
    country, _, capital = entry.strip().partition(' ')
    asked = f'What is the capital of {country}?'
    found.append({'prompt': [_user(asked)], 'answer': capital})
  return found


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--out', required=True, help='folder to write into')
  out = Path(parser.parse_args(argv).out)
  out.mkdir(parents=True, exist_ok=True)
  learnt, tested = sums()
  files = {
    'sums_chat': map(chat, learnt),
    'sums_prompts': map(prompt, learnt),
    'sums_learnt': map(prompt, learnt[:CHOOSING]),
    'sums_test': map(prompt, tested),
    'kept_test': kept(),
  }
  for name, rows in files.items():
    lines = [json.dumps(row, ensure_ascii=False) + '\n' for row in rows]
    (out / f'{name}.jsonl').write_text(''.join(lines), encoding='utf-8')
    print(f'{out / name}.jsonl: {len(lines)} lines')
  return 0


if __name__ == '__main__':
  sys.exit(main())
