"""Model folders with vendors' own chat templates (goldens/chat/vendors).

Their tokenizers are the small ones of `chat_folders`, with the special tokens
that a template names. `goldens/make_vendor_goldens.py` writes down what
transformers makes of `vendor_conversations`.
"""

import gzip
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chat_folders
import numpy as np

FOLDER = chat_folders.FOLDER / 'vendors'
EXPECTED = FOLDER / 'expected.json.gz'


class Vendor(NamedTuple):
  """What a template takes from its tokenizer.

  eos, bos  names of tokens; '': it has none
  base      'bytes' or 'spaces', as in `chat_folders`
  """

  eos: str
  bos: str = ''
  base: str = 'bytes'


CHATML, MISTRAL = Vendor('<|im_end|>'), Vendor('</s>', '<s>')
PHI = Vendor('<|endoftext|>', '<s>', 'spaces')
HEADERS = Vendor('<|eot_id|>', '<|begin_of_text|>')
GEMMA = Vendor('<eos>', '<bos>', 'spaces')
# By how a file's name begins, the longest that does; templates that are not
# among the fixtures may be tried, too.
VENDORS = {
  '': CHATML,
  'mistral': MISTRAL,
  'mixtral': MISTRAL,
  'ministral': MISTRAL,
  'mistral_nemo': MISTRAL._replace(base='spaces'),
  'phi3': PHI,
  'phi_3': PHI,
  'microsoft-phi-3': PHI,
  'gptoss': Vendor('<|return|>', '<|startoftext|>'),
  'openai-gpt-oss': Vendor('<|return|>', '<|startoftext|>'),
  'deepseek': Vendor('<｜end▁of▁sentence｜>', '<｜begin▁of▁sentence｜>'),
  'granite': Vendor('<|end_of_text|>'),
  'ibm-granite': Vendor('<|end_of_text|>'),
  'llama': HEADERS,
  'meta-llama': HEADERS,
  'gemma': GEMMA,
  'google-gemma': GEMMA,
  'gemma4': GEMMA._replace(base='bytes'),
  'google-gemma-4': GEMMA._replace(base='bytes'),
}
_SPECIAL = re.compile(
  r'<\|[^|<>{}\s]+\|>|<｜[^｜]+｜>|<(?:bos|eos|start_of_turn|end_of_turn)>|</?s>'
  r'|\[/?(?:INST|TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS|SYSTEM_PROMPT|ARGS)\]'
)
_PLAIN = re.compile(r'</?(?:think|tool_call|tool_response)>')


def names(folder: Path = FOLDER) -> list[str]:
  return sorted(path.stem for path in folder.glob('*.jinja'))


def of(name: str) -> Vendor:
  starts = [x for x in VENDORS if name.lower().startswith(x)]
  return VENDORS[max(starts, key=len)]


def make(name: str, out: Path, folder: Path = FOLDER) -> Path:
  """Writes the folder of a template, without weights."""
  source = (folder / f'{name}.jinja').read_text(encoding='utf-8')
  vendor = of(name)
  found = dict.fromkeys(_SPECIAL.findall(source))
  own = [x for x in (vendor.eos, vendor.bos) if x]
  special = [vendor.eos, *(x for x in found if x not in own)]
  style = chat_folders.Style(
    vendor.base,
    (*special, vendor.bos) if vendor.bos else tuple(special),
    bos=bool(vendor.bos),
    plain=tuple(dict.fromkeys(_PLAIN.findall(source))),
  )
  return chat_folders.write(style, source, out)


def digest(ids: Sequence[int]) -> int:
  """Of token ids, so that a fixture need not hold them."""
  return zlib.crc32(np.asarray(ids, '<i4').tobytes())


def runs(mask: Sequence[float]) -> list[list[int]]:
  """[[first, end]] of the tokens that are trained."""
  edges = np.flatnonzero(np.diff([0, *(x > 0 for x in mask), 0]))
  return edges.reshape(-1, 2).tolist()


def read(path: Path = EXPECTED) -> dict[str, Any]:
  """{template: {conversation: {text, ids, mask, asked, asked_ids}}}."""
  return json.loads(gzip.decompress(path.read_bytes()))


def write(content: dict[str, Any], path: Path = EXPECTED) -> None:
  text = json.dumps(content, separators=(',', ':'), ensure_ascii=False)
  path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
