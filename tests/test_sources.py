"""Files of every kind give the same records; harmed ones are told."""

import gzip
import json
import os
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python import array_record_module

from posttrain_jax.data import (
  files,
  pipeline,
  rows,
  sources,
  tables,
  tokenizers,
)

BYTE = tokenizers.ByteTokenizer()
RECORDS = [
  {'prompt': 'één', 'completion': 'a', 'n': 1},
  {'prompt': 'zwei', 'completion': 'b', 'n': 2},
  {'prompt': 'trois', 'completion': 'c', 'n': 3},
]
LINES = '\n'.join(map(json.dumps, RECORDS)).encode() + b'\n'


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv(files.CACHE, str(tmp_path / 'cache'))


def write_zstd(path, data=LINES):
  with pa.CompressedOutputStream(str(path), 'zstd') as out:
    out.write(data)


def write_parquet(path, records=RECORDS, **options):
  pq.write_table(pa.Table.from_pylist(records), path, **options)


def write_arrow(path, records=RECORDS, make=pa.ipc.new_stream):
  table = pa.Table.from_pylist(records)
  with make(str(path), table.schema) as out:
    for batch in table.to_batches(max_chunksize=2):
      out.write_batch(batch)


def write_array_record(path, lines=None):
  writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
  for record in lines or map(json.dumps, RECORDS):
    writer.write(record.encode())
  writer.close()


def write_saved(folder, records=RECORDS):
  """What `datasets.Dataset.save_to_disk` writes."""
  os.makedirs(folder)
  write_arrow(folder / 'data-00000-of-00001.arrow', records)
  (folder / 'dataset_info.json').write_text('{"features": {}}')
  state = {
    '_data_files': [{'filename': 'data-00000-of-00001.arrow'}],
    '_split': None, '_fingerprint': 'x',
  }  # fmt: skip
  (folder / 'state.json').write_text(json.dumps(state))


# {file name: how it is written}
KINDS = {
  'x.jsonl': lambda p: p.write_bytes(LINES),
  'x.jsonl.gz': lambda p: p.write_bytes(gzip.compress(LINES)),
  'x.jsonl.zst': write_zstd,
  'x.json': lambda p: p.write_text(json.dumps(RECORDS, indent=1)),
  'x.parquet': write_parquet,
  'groups.parquet': lambda p: write_parquet(p, row_group_size=1),
  'x.arrow': write_arrow,
  'file.arrow': lambda p: write_arrow(p, make=pa.ipc.new_file),
  'x.array_record': write_array_record,
  'saved': write_saved,
}


@pytest.mark.parametrize('name', KINDS)
def test_every_kind_of_file_gives_the_same_records(name, tmp_path):
  path = tmp_path / name
  KINDS[name](path)
  source = sources.open_source(str(path))
  assert len(source) == 3 and source.num_bytes > 0
  assert [r.columns for r in source] == RECORDS
  assert [source[i].columns for i in (2, 0, 1)] == [
    RECORDS[i] for i in (2, 0, 1)
  ]
  assert [r.index for r in source] == [0, 1, 2]
  place = '{}:{}' if 'jsonl' in name else '{}[{}]'
  file = path / 'data-00000-of-00001.arrow' if name == 'saved' else path
  first = 1 if 'jsonl' in name else 0
  assert [r.where for r in source] == [
    place.format(file, i + first) for i in range(3)
  ]
  assert list(source.content()) == source.paths() == [str(file)]
  with pytest.raises(IndexError):
    source[3]


def test_large_parquet_is_mapped_from_a_copy(tmp_path, monkeypatch):
  path = tmp_path / 'x.parquet'
  write_parquet(path, row_group_size=2)
  monkeypatch.setattr(tables, 'IN_MEMORY', 0)
  for _ in range(2):  # the second time from the copy
    source = sources.open_source(str(path))
    assert [source[i].columns for i in range(3)] == RECORDS
  copies = list((tmp_path / 'cache').iterdir())
  assert [copy.suffix for copy in copies] == ['.arrow']
  monkeypatch.setattr(pq.ParquetFile, 'read_row_group', None)
  assert len(sources.open_source(str(path))) == 3
  os.utime(path, ns=(1, 1))  # another file, by its time: copied anew
  with pytest.raises(TypeError):
    sources.open_source(str(path))
  assert len(list((tmp_path / 'cache').iterdir())) == 1  # nothing half-made


def test_compressed_files_are_unpacked_once(tmp_path, monkeypatch):
  path = tmp_path / 'x.jsonl.gz'
  path.write_bytes(gzip.compress(LINES[:50]) + gzip.compress(LINES[50:]))
  assert len(sources.open_source(str(path))) == 3
  monkeypatch.setattr(gzip, 'open', None)
  assert sources.JsonlSource(str(path))[1].columns == RECORDS[1]
  monkeypatch.setenv(files.CACHE, '/proc/nowhere')
  with pytest.raises(
    ValueError, match=f'x.jsonl.gz .*cannot be .*{files.CACHE}'
  ):
    sources.open_source(str(path))


HARMED = {
  'x.jsonl.gz': (gzip.compress(LINES * 99)[:-20], 'damaged, as gzip says'),
  'x.jsonl.zst': (b'\x28\xb5\x2f\xfd' + b'\x99' * 40, 'damaged, as zstd says'),
  'x.parquet': (b'PAR1' + b'x' * 60, 'cannot be read: '),
  'x.arrow': (b'x' * 60, 'cannot be read: '),
  'file.arrow': (b'ARROW1\0\0' + b'x' * 60, 'cannot be read: '),
  'x.array_record': (b'x' * 60, 'cannot be read: '),
  'x.json': (b'[{"a": 1},', 'x.json: character 11'),
  'empty.json': (b'[]', 'no records in'),
  'x.xz': (b'\xfd7zXZ' + b'x' * 60, 'unxz'),
}


@pytest.mark.parametrize('name', HARMED)
def test_harmed_files_are_told_in_one_line(name, tmp_path):
  content, message = HARMED[name]
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=message) as caught:
    sources.open_source(str(tmp_path / name))
  told = str(caught.value)
  assert str(tmp_path / name) in told
  assert '\n' not in told and len(told) < 600
  assert not (tmp_path / 'cache').exists() or not any(
    (tmp_path / 'cache').iterdir()
  )


def test_rows_that_are_no_records(tmp_path):
  write_array_record(tmp_path / 'x.array_record', ['{"a": 1}', '\x0a\x07tf'])
  with pytest.raises(ValueError, match=r'x.array_record\[1\]: .*TFDS'):
    sources.open_source(str(tmp_path / 'x.array_record'))[1]
  (tmp_path / 'x.json').write_text('[{"a": 1}, 3]')
  with pytest.raises(ValueError, match=r'x.json\[1\]: expected a dict, got 3'):
    sources.open_source(str(tmp_path / 'x.json'))[1]
  empty = pa.table({'a': pa.array([], pa.string())})
  pq.write_table(empty, tmp_path / 'x.parquet')
  with pytest.raises(ValueError, match='no records in '):
    sources.open_source(str(tmp_path / 'x.parquet'))


# Folders and splits


def test_splits_of_saved_folders(tmp_path):
  for split in ('train', 'test'):
    write_saved(tmp_path / 'd' / split, RECORDS[: 3 if split == 'train' else 1])
  (tmp_path / 'd' / 'dataset_dict.json').write_text(
    '{"splits": ["train", "test"]}'
  )
  folder = str(tmp_path / 'd')
  assert len(sources.open_source(f'{folder}:test')) == 1
  assert len(sources.open_source({'path': folder, 'split': 'train'})) == 3
  with pytest.raises(ValueError, match='has the splits train, test: name one'):
    sources.open_source(folder)
  with pytest.raises(ValueError, match='no split "tran".* mean "train"'):
    sources.open_source(f'{folder}:tran')
  with pytest.raises(ValueError, match='has no splits, so no "x"'):
    sources.open_source(f'{folder}/test:x')


@pytest.mark.parametrize('state, message', [
  ('{', 'state.json cannot be read'), ('[]', 'state.json cannot be read'),
  ('{"_data_files": []}', 'names no files'),
  ('{"_data_files": [{"filename": "gone.arrow"}]}', 'gone.arrow, which is not'),
  ('{"_indices_data_files": [{"filename": "i"}]}', 'flatten_indices'),
])  # fmt: skip
def test_saved_folders_that_are_not_whole(state, message, tmp_path):
  (tmp_path / 'state.json').write_text(state)
  with pytest.raises(ValueError, match=message):
    sources.open_source(str(tmp_path))


def test_a_folder_of_neither_kind(tmp_path):
  with pytest.raises(ValueError, match='neither one that `datasets` has saved'):
    sources.open_source(str(tmp_path))


# Several


def test_globs_and_lists_of_several_kinds(tmp_path):
  for name in ('a.jsonl', 'b.parquet', 'c.jsonl.gz', 'd.jsonl'):
    KINDS['x.' + name.partition('.')[2]](tmp_path / name)
  for spec in (
    str(tmp_path / '?.*'),
    [str(tmp_path / n) for n in ('a.jsonl', 'b.parquet')]
    + [{'path': str(tmp_path / '[cd].*')}],
  ):
    source = sources.open_source(spec)
    assert [r.columns for r in source] == 4 * RECORDS
    assert [source[i].index for i in range(12)] == list(range(12))
    assert [r.where for r in source] == [source[i].where for i in range(12)]
    assert len(source.paths()) == 4 and source.stamp is not None


@pytest.mark.parametrize('spec, message', [
  ([], r'sources=\[\] names no file'), (5, 'names no file'),
  ([5], r'sources\[0\]=5 is no path'),
  ([{'pth': 'x'}], r'sources\[0\]: unknown key "pth". Did you mean "path"'),
  ([{'split': 'x'}], r'sources\[0\].path='),
  (['x', {'path': 'x', 'weight': 0}], r'sources\[1\].weight=0.0 is not a'),
  ([{'path': 'x', 'weight': '2'}], r'sources\[0\].weight="2" is not'),
  (['x', {'path': 'x', 'weight': 2}], r'sources\[0\] has no weight'),
  ('nowhere.parquet', 'no file matches "nowhere.parquet"'),
])  # fmt: skip
def test_specs_that_are_none(spec, message):
  with pytest.raises(ValueError, match=message):
    sources.open_source(spec)


def test_paths_with_commas_between(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  for name in ('a.jsonl', 'b.parquet', 'c.jsonl.gz'):
    KINDS['x.' + name.partition('.')[2]](tmp_path / name)
  spec = f'{tmp_path}/a.jsonl, ~/b.parquet,{tmp_path}/c*'
  source = sources.open_source(spec)
  assert [r.columns for r in source] == 3 * RECORDS
  assert len(source.paths()) == 3
  with pytest.raises(ValueError, match='commas "c" is not there'):
    sources.open_source(f'{tmp_path}/a.jsonl,c')
  with pytest.raises(ValueError, match=r'c.jsn" is not there\. Did you mean "'):
    sources.open_source(f'{tmp_path}/a.jsonl,{tmp_path}/c.jsn')
  with pytest.raises(ValueError, match='no file matches "d,c"'):
    sources.open_source('d,c')
  # A file that is called so is that file.
  KINDS['x.jsonl'](tmp_path / 'a,b')
  monkeypatch.chdir(tmp_path)
  for name in 'ab':
    (tmp_path / name).write_text('{"text": "other"}')
  assert [r.columns for r in sources.open_source('a,b')] == RECORDS
  assert len(sources.open_source('b,a,a')) == 3


def test_a_missing_library_is_told(tmp_path, monkeypatch):
  write_parquet(tmp_path / 'x.parquet')
  monkeypatch.setitem(__import__('sys').modules, 'pyarrow.parquet', None)
  with pytest.raises(ValueError, match='pip install pyarrow'):
    sources.open_source(str(tmp_path / 'x.parquet'))


# Sources made of others


def test_walking_goes_on_after_a_bad_line(tmp_path):
  path = tmp_path / 'x.jsonl'
  path.write_bytes(b'{"text": "a"}\n{\n{"text": "c"}\n')
  joined = rows.Joined([sources.JsonlSource(str(path))] * 2)
  found = list(rows.walk(joined))
  assert [type(x).__name__ for x in found] == ['Record', 'Failed', 'Record'] * 2
  assert [x.index for x in found] == [0, 1, 2, 3, 4, 5]
  assert found[4].message.startswith(f'{path}:2: ')
  assert joined.raw(4) == '{' and joined.raw(5) == '{"text": "c"}'
  with pytest.raises(ValueError, match=f'{path}:2: '):
    list(joined)


def test_subsets_keep_their_parts(tmp_path):
  numbered = [pipeline.ListSource([{'n': i} for i in range(k)]) for k in (3, 4)]
  joined = rows.Joined([*numbered, numbered[0]], (1.0, 2.0, 3.0))
  few = rows.subset(joined, [1, 2, 9])
  assert few.weights == (1.0, 3.0)  # of the second part nothing is left
  assert [r.columns['n'] for r in few] == [1, 2, 2]
  assert [r.index for r in few] == [0, 1, 2]
  assert rows.subset(joined, range(10)) is joined
  with pytest.raises(ValueError, match='no record is left'):
    rows.subset(joined, [])


def test_digests_are_of_what_a_file_says(tmp_path, monkeypatch):
  path = tmp_path / 'x'
  path.write_bytes(b'abc' * 50)
  said = files.digest(str(path))
  os.utime(path, ns=(1, 1))
  assert files.digest(str(path)) == said
  path.write_bytes(b'abd' * 50)
  assert files.digest(str(path)) != said
  monkeypatch.setattr(files, 'WHOLE', 10)
  monkeypatch.setattr(files, 'BLOCK', 16)
  monkeypatch.setattr(files, 'BLOCKS', 4)
  path.write_bytes(b'abd' * 51)
  said = files.digest(str(path))
  path.write_bytes(b'abd' * 50 + b'abe')  # the last block is one of those
  assert files.digest(str(path)) != said


def test_a_folder_that_datasets_has_saved():
  folder = pathlib.Path(__file__).parent / 'goldens' / 'saved_dataset'
  source = sources.open_source(f'{folder}:train')
  said = [[m['content'] for m in r.columns['messages']] for r in source]
  assert said == [['q0', 'a0'], ['q1', 'a1'], ['q2', 'a2']]
  assert [r.columns['id'] for r in source] == [0, 1, 2]
  report = pipeline.preflight(source, BYTE, max_length=64)
  assert report['kind'] == 'messages' and report['kept'] == 3
  assert sources.open_source(f'{folder}:test')[0].columns['id'] == 9
