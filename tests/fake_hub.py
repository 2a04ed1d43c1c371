"""A hub on this machine: what huggingface_hub asks one for, over HTTP.

with Hub() as hub:
  commit = hub.add('models', 'org/name', folder)
  ... HF_ENDPOINT=hub.url ...
"""

import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from pathlib import Path

API = re.compile(
  r'/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/?]+))?'
)
FILE = re.compile(r'/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)')


class Hub:
  """Repositories by kind and name; each of one branch, `main`.

  asked  paths of all requests
  gated  names of repositories that want terms to be accepted
  """

  def __init__(self):
    self.repos: dict[tuple[str, str], dict[str, dict[str, bytes]]] = {}
    self.heads: dict[tuple[str, str], str] = {}
    self.asked: list[str] = []
    self.gated: set[str] = set()

  def add(self, kind: str, name: str, folder: Path) -> str:
    """The folder's files as the newest commit; returns that."""
    files = {
      str(p.relative_to(folder)): p.read_bytes()
      for p in sorted(folder.rglob('*'))
      if p.is_file()
    }
    told = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
    self.repos.setdefault((kind, name), {})[told] = files
    self.heads[kind, name] = told
    return told

  def __enter__(self) -> 'Hub':
    hub = self

    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = 'HTTP/1.1'

      def log_message(self, *_):
        pass

      def do_GET(self):
        self.answer(body=True)

      def do_HEAD(self):
        self.answer(body=False)

      def answer(self, body: bool) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        hub.asked.append(path)
        status, headers, content = hub.answer(path)
        self.send_response(status)
        for key, value in headers.items():
          self.send_header(key, value)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        if body:
          self.wfile.write(content)

    self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    self.url = f'http://127.0.0.1:{self.server.server_port}'
    threading.Thread(target=self.server.serve_forever, daemon=True).start()
    return self

  def __exit__(self, *_):
    self.server.shutdown()
    self.server.server_close()

  def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, content)."""
    refused = lambda status, code: (status, {'X-Error-Code': code}, b'{}')
    if match := API.fullmatch(path):
      kind, name, what, revision = match.groups()
    elif match := FILE.fullmatch(path):
      kind, what = ('datasets' if match[1] else 'models'), 'file'
      name, revision = match[2], match[3]
    else:
      return refused(404, 'EntryNotFound')
    if name in self.gated:
      return refused(403, 'GatedRepo')
    commits = self.repos.get((kind, name))
    if commits is None:
      return refused(401, 'RepoNotFound')
    if revision in (None, 'main'):
      revision = self.heads[kind, name]
    if revision not in commits:
      return refused(404, 'RevisionNotFound')
    files = commits[revision]
    if what == 'file':
      if match[4] not in files:
        return refused(404, 'EntryNotFound')
      content = files[match[4]]
      told = f'"{hashlib.sha1(content).hexdigest()}"'
      return 200, {'ETag': told, 'X-Repo-Commit': revision}, content
    if what == 'tree':
      made: object = [
        {'type': 'file', 'path': file, 'size': len(content),
         'oid': hashlib.sha1(content).hexdigest()}
        for file, content in files.items()
      ]  # fmt: skip
    else:
      made = {
        'id': name,
        'sha': revision,
        'siblings': [{'rfilename': file} for file in files],
      }
    return (
      200,
      {'Content-Type': 'application/json'},
      json.dumps(made).encode(),
    )
