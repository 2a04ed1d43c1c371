"""A bucket in memory: what Orbax, tensorstore and etils see of gs://.

  with fake_gcs.served() as objects:   # {'bucket/name': bytes}
    ...

Three doors to the same objects: the part of Cloud Storage's JSON interface that
tensorstore calls (on loopback), a file system of fsspec that etils takes for
gs://, and the client of google-cloud-storage, of which Orbax asks one thing. An
object is whole or not there; nothing is renamed or added to in place, and there
are no folders.
"""

import contextlib
import http.server
import io
import json
import os
import sys
import threading
import types
import urllib.parse

import fsspec
from etils.epath import backend as epath_backend
from fsspec.spec import AbstractFileSystem


class _Store(dict):
  """{'bucket/name': bytes}; every write has a number, the generation."""

  def __init__(self):
    super().__init__()
    self.generations, self.last = {}, 0
    self.lock = threading.Lock()

  def __setitem__(self, name, data):
    self.last += 1
    self.generations[name] = self.last
    super().__setitem__(name, bytes(data))


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  store: _Store

  def log_message(self, *args):
    pass

  def _split(self):
    url = urllib.parse.urlsplit(self.path)
    query = {k: v[0] for k, v in urllib.parse.parse_qs(url.query).items()}
    parts = url.path.partition('/storage/v1/b/')[2].split('/', 2)
    name = urllib.parse.unquote(parts[2]) if len(parts) > 2 else ''
    return parts[0], name, query

  def _say(self, status, data=b'', **headers):
    self.send_response(status)
    for key, value in headers.items():
      self.send_header(key.replace('_', '-'), str(value))
    self.send_header('Content-Length', str(len(data)))
    self.end_headers()
    self.wfile.write(data)

  def _metadata(self, key):
    bucket, _, name = key.partition('/')
    return {
      'kind': 'storage#object', 'bucket': bucket, 'name': name,
      'size': str(len(self.store[key])),
      'generation': str(self.store.generations[key]),
    }  # fmt: skip

  def _holds(self, key, query):
    """Whether the conditions of a request are met."""
    now = self.store.generations.get(key, 0) if key in self.store else 0
    wanted = query.get('ifGenerationMatch')
    return wanted is None or int(wanted) == now

  def do_GET(self):
    bucket, name, query = self._split()
    with self.store.lock:
      if not name:
        return self._list(bucket, query)
      key = f'{bucket}/{name}'
      if key not in self.store:
        return self._say(404)
      generation = self.store.generations[key]
      if query.get('ifGenerationNotMatch') == str(generation):
        return self._say(304)
      if not self._holds(key, query):
        return self._say(412)
      if query.get('alt') != 'media':
        return self._say(200, json.dumps(self._metadata(key)).encode())
      data, size = self.store[key], len(self.store[key])
    sent, status, more = data, 200, {'x_goog_generation': generation}
    asked = self.headers.get('Range', '').removeprefix('bytes=')
    if asked:
      first, _, last = asked.partition('-')
      start = int(first) if first else max(0, size - int(last))
      end = min(int(last) if first and last else size - 1, size - 1)
      if start >= size:
        return self._say(416, Content_Range=f'bytes */{size}')
      sent, status = data[start : end + 1], 206
      more['Content_Range'] = f'bytes {start}-{end}/{size}'
    return self._say(status, sent, **more)

  def _list(self, bucket, query):
    start = query.get('prefix', '')
    after, end = query.get('startOffset', ''), query.get('endOffset')
    keys = [
      key for key in sorted(self.store)
      if key.startswith(f'{bucket}/{start}')
      and key.partition('/')[2] >= after
      and (not end or key.partition('/')[2] < end)
    ]  # fmt: skip
    items = [self._metadata(key) for key in keys]
    self._say(200, json.dumps({'items': items}).encode())

  def do_POST(self):
    bucket, _, query = self._split()
    data = self.rfile.read(int(self.headers.get('Content-Length', 0)))
    key = f'{bucket}/{query["name"]}'
    with self.store.lock:
      if not self._holds(key, query):
        return self._say(412)
      self.store[key] = data
      return self._say(200, json.dumps(self._metadata(key)).encode())

  def do_DELETE(self):
    bucket, name, query = self._split()
    key = f'{bucket}/{name}'
    with self.store.lock:
      if not self._holds(key, query):
        return self._say(412)
      if self.store.pop(key, None) is None:
        return self._say(404)
      return self._say(204)


class _Written(io.BytesIO):
  def __init__(self, store, key):
    super().__init__()
    self._store, self._key = store, key

  def close(self):
    if not self.closed:
      self._store[self._key] = self.getvalue()
    super().close()


class FileSystem(AbstractFileSystem):
  """The same objects, as gcsfs shows them."""

  protocol, cachable = ('gcs', 'gs'), False
  store: _Store

  @classmethod
  def _strip_protocol(cls, path):
    path = os.fspath(path)
    return (path.partition('://')[2] if '://' in path else path).rstrip('/')

  def info(self, path, **kwargs):
    path = self._strip_protocol(path)
    if path in self.store:
      size = len(self.store[path])
      when = self.store.generations[path]
      return {'name': path, 'size': size, 'type': 'file', 'mtime': when}
    if any(key.startswith(f'{path}/') for key in list(self.store)):
      return {'name': path, 'size': 0, 'type': 'directory'}
    raise FileNotFoundError(path)

  def ls(self, path, detail=True, **kwargs):
    path = self._strip_protocol(path)
    if path in self.store:
      found = [path]
    else:
      rest = [k[len(path) + 1 :] for k in list(self.store)
              if k.startswith(f'{path}/')]  # fmt: skip
      if not rest:
        raise FileNotFoundError(path)
      found = sorted({f'{path}/{name.partition("/")[0]}' for name in rest})
    return [self.info(name) for name in found] if detail else found

  def _open(self, path, mode='rb', **kwargs):
    if mode == 'rb':
      if path not in self.store:
        raise FileNotFoundError(path)
      return io.BytesIO(self.store[path])
    if mode != 'wb':
      raise NotImplementedError(f'{mode}: objects are written whole')
    return _Written(self.store, path)

  def mkdir(self, path, create_parents=True, **kwargs):
    pass

  def makedirs(self, path, exist_ok=False):
    pass

  def rmdir(self, path):
    pass

  def _rm(self, path):
    path = self._strip_protocol(path)
    if path in self.store:
      del self.store[path]

  def cp_file(self, path1, path2, **kwargs):
    first, second = map(self._strip_protocol, (path1, path2))
    if first in self.store:
      self.store[second] = self.store[first]

  def pipe_file(self, path, value, mode='overwrite', **kwargs):
    path = self._strip_protocol(path)
    with self.store.lock:
      if mode == 'create' and path in self.store:
        raise FileExistsError(path)
      self.store[path] = value


@contextlib.contextmanager
def served():
  """Serves an empty set of buckets; yields its objects."""
  store = _Store()
  handler = type('Handler', (_Handler,), {'store': store})
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  own = type('FakeGcs', (FileSystem,), {'store': store})
  storage = types.ModuleType('google.cloud.storage')
  storage.Client = lambda: types.SimpleNamespace(
    get_bucket=lambda name: types.SimpleNamespace(name=name)
  )
  cloud = types.ModuleType('google.cloud')
  cloud.storage = storage
  set_ = {
    'TENSORSTORE_GCS_HTTP_URL': f'http://127.0.0.1:{server.server_port}',
    'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'none',
  }
  modules = {'google.cloud': cloud, 'google.cloud.storage': storage}
  old_env = {key: os.environ.get(key) for key in set_}
  old_modules = {key: sys.modules.get(key) for key in modules}
  os.environ.update(set_)
  sys.modules.update(modules)
  fsspec.register_implementation('gcs', own, clobber=True)
  epath_backend.fsspec_backend._get_filesystem.cache_clear()
  try:
    yield store
  finally:
    for place, old in ((os.environ, old_env), (sys.modules, old_modules)):
      for key, value in old.items():
        if value is None:
          place.pop(key, None)
        else:
          place[key] = value
    epath_backend.fsspec_backend._get_filesystem.cache_clear()
    server.shutdown()
    server.server_close()
