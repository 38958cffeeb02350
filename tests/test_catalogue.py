"""Downloads, from a server on this machine that does what servers do: parts of files, lost connections, other files."""
import hashlib
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from reference_data import path as reference

from train import catalogue, data, run
from train.catalogue import SOURCES, Source, fetch, main
from train.config import Config

TEXT = np.random.default_rng(0).integers(97, 123, 300_000, np.uint8).tobytes()
OTHER = TEXT[::-1]


class Server(http.server.ThreadingHTTPServer):
    """What it serves, how it behaves, and what it was asked for."""
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.etag, self.cuts, self.ranges, self.length, self.asked = {}, '"1"', [], True, True, []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        s, content = self.server, self.server.files.get(self.path[1:])
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        s.asked.append((self.path[1:], wanted))
        if content is None:
            self.send_error(404)
            return
        start, status = 0, 200
        if wanted and s.ranges and condition == s.etag:
            start, status = int(wanted.removeprefix("bytes=").removesuffix("-")), 206
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(status)
        if s.etag:
            self.send_header("ETag", s.etag)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if s.length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + s.cuts.pop(0) if s.cuts else len(content)
        self.wfile.write(content[start:end])


@pytest.fixture
def server(monkeypatch):
    s = Server()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(catalogue, "TIMEOUT", 5)
    s.files = {"input.txt": TEXT}
    monkeypatch.setitem(SOURCES, "here", Source(s.url + "input.txt", "some letters", "none",
                                                hashlib.sha256(TEXT).hexdigest(), len(TEXT)))
    monkeypatch.setitem(SOURCES, "dump", Source(s.url + "hiwiki-latest-pages-articles.txt", "a dump", "none",
                                                sums=s.url + "hiwiki-latest-sha1sums.txt"))
    thread = threading.Thread(target=s.serve_forever, args=(0.01,))
    thread.start()
    yield s
    s.shutdown()
    thread.join()
    s.server_close()


def requests(server, name="input.txt"):
    return [wanted for path, wanted in server.asked if path == name]


def only(folder):
    """The one file in a folder."""
    file, = folder.iterdir()
    return file


def test_a_download_is_made_once(tmp_path, server):
    file = fetch("here", tmp_path)
    assert file == only(tmp_path) == tmp_path / "here.txt" and file.read_bytes() == TEXT
    assert fetch("here", tmp_path) == file and requests(server) == [None]


def test_lost_connections_cost_only_what_was_under_way(tmp_path, server):
    server.cuts = [100_000, 50_000, 70_001]
    assert fetch("here", tmp_path).read_bytes() == TEXT
    assert requests(server) == [None, "bytes=100000-", "bytes=150000-", "bytes=220001-"]
    assert only(tmp_path)


def test_the_next_try_goes_on(tmp_path, server):
    server.cuts = [100_000, 0]
    with pytest.raises(ValueError, match="the connection ended at 100,000 of 300,000 bytes after 100,000 bytes"):
        fetch("here", tmp_path)
    assert not (tmp_path / "here.txt").exists() and (tmp_path / "here.txt.part").read_bytes() == TEXT[:100_000]
    assert fetch("here", tmp_path).read_bytes() == TEXT
    assert requests(server)[2:] == ["bytes=100000-"] and only(tmp_path)


def test_a_kill_between_the_last_byte_and_the_name(tmp_path, server):
    server.cuts = [299_999, 0]
    with pytest.raises(ValueError):
        fetch("here", tmp_path)
    with open(tmp_path / "here.txt.part", "ab") as f:
        f.write(TEXT[-1:])
    assert fetch("here", tmp_path).read_bytes() == TEXT and len(requests(server)) == 2


@pytest.mark.parametrize("now", ['"2"', "", 'W/"1"'])
def test_a_file_that_has_changed_is_not_glued_to_the_old_half(tmp_path, server, monkeypatch, now):
    server.cuts, server.files["input.txt"] = [100_000, 0], OTHER
    with pytest.raises(ValueError, match="the connection ended"):
        fetch("here", tmp_path)
    server.files["input.txt"], server.etag = TEXT, now
    assert fetch("here", tmp_path).read_bytes() == TEXT and only(tmp_path)


@pytest.mark.parametrize("etag", ["", 'W/"1"'])
def test_without_a_mark_nothing_is_glued(tmp_path, server, etag):
    server.etag, server.cuts = etag, [100_000, 200_000]
    assert fetch("here", tmp_path).read_bytes() == TEXT and requests(server) == [None] * 3
    again = tmp_path / "again"
    server.cuts = [100_000] * 9                              # it never gets any further: it must end
    with pytest.raises(ValueError, match="after 100,000 bytes"):
        fetch("here", again)


def test_a_server_that_knows_no_ranges_sends_all_of_it(tmp_path, server):
    server.ranges, server.cuts = False, [100_000]
    assert fetch("here", tmp_path).read_bytes() == TEXT and requests(server) == [None, "bytes=100000-"]


def test_a_server_that_sends_another_part(tmp_path, server, monkeypatch):
    server.cuts = [100_000]
    monkeypatch.setattr(Handler, "send_header", lambda self, key, value, real=Handler.send_header: real(
        self, key, value.replace("bytes 100000-", "bytes 99999-")))
    with pytest.raises(ValueError, match="another part of the file"):
        fetch("here", tmp_path)


def test_a_file_that_has_become_shorter(tmp_path, server):
    server.files["input.txt"] = TEXT + OTHER
    server.cuts = [500_000, 0]
    with pytest.raises(ValueError):
        fetch("here", tmp_path)
    server.files["input.txt"] = TEXT                         # and its ETag is what it was
    assert fetch("here", tmp_path).read_bytes() == TEXT


def test_a_file_that_has_become_longer(tmp_path, server):
    server.files["input.txt"] = OTHER[:200_000]
    server.cuts = [100_000, 0]
    with pytest.raises(ValueError):
        fetch("here", tmp_path)
    server.files["input.txt"] = TEXT                         # and its ETag is what it was
    assert fetch("here", tmp_path).read_bytes() == TEXT and requests(server)[2:] == ["bytes=100000-", None]


def test_the_rest_of_a_file_whose_size_was_not_said(tmp_path, server):
    """What came in chunks and was cut is not thrown away once the rest has come."""
    (tmp_path / "here.txt.part").write_bytes(TEXT[:100_000])
    (tmp_path / "here.txt.part.json").write_text('{"mark": "\\"1\\"", "bytes": null}')
    assert fetch("here", tmp_path).read_bytes() == TEXT and requests(server) == ["bytes=100000-"]


def test_a_wrong_checksum_leaves_nothing(tmp_path, server):
    server.files["input.txt"] = OTHER
    with pytest.raises(ValueError, match=f"got a file with sha256 {hashlib.sha256(OTHER).hexdigest()} instead of"):
        fetch("here", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_of_unknown_length(tmp_path, server):
    server.length = False
    assert fetch("here", tmp_path).read_bytes() == TEXT
    server.cuts = [7]
    with pytest.raises(ValueError, match="instead of"):      # such a server cannot say that something is missing
        fetch("here", tmp_path / "again")


SUM = hashlib.sha1(TEXT).hexdigest()


@pytest.mark.parametrize(("sums", "says"), [
    (f"{'0' * 40}  hiwiki-20261101-pages-articles-multistream.txt\n{SUM}  hiwiki-20261101-pages-articles.txt\n", ""),
    (f"{'0' * 40}  hiwiki-20261101-pages-articles.txt\n", f"sha1 {SUM} instead of 0000"),
    (f"{SUM}  hiwiki-20261101-pages-articles-multistream.txt\n", "no checksum of it in .*sums.txt"),
    (None, "404: Not Found for .*sums.txt"),
])
def test_the_checksum_of_what_changes_is_published_beside_it(tmp_path, server, sums, says):
    server.files = {"hiwiki-latest-pages-articles.txt": TEXT}
    if sums:
        server.files["hiwiki-latest-sha1sums.txt"] = sums.encode()
    if not says:
        assert fetch("dump", tmp_path).read_bytes() == TEXT
        return
    with pytest.raises(ValueError, match=says):
        fetch("dump", tmp_path)
    assert not (tmp_path / "dump.txt").exists()
    assert (tmp_path / "dump.txt.part").exists() == ("sha1" not in says)         # what may still turn out right stays


def test_without_a_network(tmp_path, server, capsys, monkeypatch):
    """One line: what it is, where it is, where to put it, and what to do then."""
    monkeypatch.setitem(SOURCES, "here", SOURCES["here"]._replace(url="http://127.0.0.1:9/input.txt"))
    folder = str(tmp_path / "d")
    assert main(["here", "--downloads", folder]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and "refused" in said
    for part in ("some letters", "http://127.0.0.1:9/input.txt", f"{folder}/here.txt; then: python -m train.run"):
        assert part in said
    assert run.main(["--data", "here", "--downloads", folder, "--out", str(tmp_path / "out"),
                     "--shards", str(tmp_path / "s")]) == 2
    assert said in capsys.readouterr().err
    Path(folder, "here.txt").write_bytes(TEXT)                   # by hand
    assert data.source_files(Config(data="here", downloads=folder)) == [Path(folder, "here.txt")]


def test_what_the_server_has_not(tmp_path, server):
    server.files = {}
    with pytest.raises(ValueError, match="--data here: got HTTP 404 Not Found; expected some letters, from http://127"):
        fetch("here", tmp_path)


def test_a_full_disk(tmp_path, server, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(catalogue, "write_json", full)
    with pytest.raises(ValueError, match="--downloads: got .*No space left.*expected a folder with room"):
        fetch("here", tmp_path)
    monkeypatch.undo()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="--downloads: got"):
        fetch("names", tmp_path / "file")


def test_two_at_once_download_once(tmp_path, server):
    found, threads = [], [threading.Thread(target=lambda: found.append(fetch("here", tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "here.txt"] * 4 and requests(server) == [None] and found[0].read_bytes() == TEXT


def test_a_run_by_name(tmp_path, server, monkeypatch):
    """A file or folder of that name is meant first; then what is kept; then what is downloaded."""
    monkeypatch.chdir(tmp_path)
    d = data.prepare(Config(data="here"))
    assert d.tokenizer.decode(d.train.tokens[1:-1]) == TEXT[:240_000].decode()
    assert requests(server) == [None] and Path("runs/downloads/here.txt").is_file()
    Path("here").write_text("mine " * 100)
    assert data.source_files(Config(data="here")) == [Path("here")]
    with pytest.raises(ValueError, match="'tinyshakespeare.txt', which does not exist; .*"
                                         "Hint: --data tinyshakespeare downloads it"):
        data.source_files(Config(data="tinyshakespeare.txt"))


def test_the_list(tmp_path, capsys):
    (tmp_path / "names.txt").write_text("here")
    assert main(["--downloads", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for name, source in SOURCES.items():
        assert name in said and source.url in said and source.licence in said
        assert source.url.startswith("https://") and (source.sha256 or source.size == 0)
    assert f"[{tmp_path / 'names.txt'}]" in said and said.count("[") == 1
    done = subprocess.run([sys.executable, "-m", "train.catalogue", "nothing"], text=True, capture_output=True,
                          cwd=Path(__file__).parent.parent, env=os.environ)
    assert done.returncode == 2 and "invalid choice" in done.stderr


@pytest.mark.parametrize(("name", "folder"), [("tinyshakespeare", "english"), ("names", "names")])
def test_checksums_are_those_of_the_texts(name, folder):
    content = reference(folder, f"{name}.txt").read_bytes()
    assert (hashlib.sha256(content).hexdigest(), len(content)) == (SOURCES[name].sha256, SOURCES[name].size)
