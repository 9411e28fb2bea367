"""Downloads against a real server on loopback that is slow, breaks off, lies or is not there."""

import hashlib
import http.server
import threading
import time

import pytest

from hbnn_larq.zoo.download import download, sha256_of

CONTENT = bytes(range(256)) * 4000  # about 1 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT, with one fault to be set before the request."""

    daemon_threads = True
    content = CONTENT
    ranges = True  # whether it understands Range
    cut_after = None  # bytes of each answer after which the connection breaks off
    status = 200
    delay = 0.0  # seconds between blocks
    stall_after = None  # bytes after which it keeps the connection and sends nothing

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/weights.npz"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        with server.lock:
            server.requests.append(asked)
        if server.status != 200:
            self.send_error(server.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = 0
        while sent < len(body):
            block = body[sent : sent + 50_000]
            if server.cut_after is not None and sent + len(block) > server.cut_after:
                self.wfile.write(block[: server.cut_after - sent])
                return
            if server.stall_after is not None and sent >= server.stall_after:
                time.sleep(3)
                return
            self.wfile.write(block)
            sent += len(block)
            time.sleep(server.delay)


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def get(server, path, **arguments):
    settings = {"sha256": SHA256, "pause": 0.01, "timeout": 1.0}
    return download(server.url, path, **{**settings, **arguments})


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_arrives_and_nothing_else_stays(server, tmp_path):
    path = get(server, tmp_path / "deep" / "weights.npz")
    assert path.read_bytes() == CONTENT
    assert leftovers(path.parent) == ["weights.npz"]


def test_progress_ends_at_the_size(server, tmp_path):
    seen = []
    get(server, tmp_path / "weights.npz", progress=lambda have, total: seen.append((have, total)))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [have for have, _ in seen] == sorted(have for have, _ in seen)


def test_slow_server(server, tmp_path):
    server.delay = 0.02
    assert get(server, tmp_path / "weights.npz").read_bytes() == CONTENT


def test_broken_connections_are_resumed(server, tmp_path):
    server.cut_after = 300_000
    assert get(server, tmp_path / "weights.npz").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_a_stalled_connection_counts_as_broken(server, tmp_path):
    server.stall_after = 600_000
    assert get(server, tmp_path / "weights.npz", timeout=0.3).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_server_without_ranges_starts_anew(server, tmp_path):
    server.ranges = False
    (tmp_path / "weights.npz.part").write_bytes(CONTENT[:1000])
    assert get(server, tmp_path / "weights.npz").read_bytes() == CONTENT


def test_a_later_call_goes_on(server, tmp_path):
    server.cut_after = 0
    (tmp_path / "weights.npz.part").write_bytes(CONTENT[:500_000])
    with pytest.raises(ConnectionError, match=r"500,000 bytes are kept; the same call goes on"):
        get(server, tmp_path / "weights.npz", attempts=2)
    assert not (tmp_path / "weights.npz").exists()
    server.cut_after = None
    assert get(server, tmp_path / "weights.npz").read_bytes() == CONTENT
    assert server.requests[-1] == "bytes=500000-"


def test_leftover_of_another_file_is_thrown_away(server, tmp_path):
    (tmp_path / "weights.npz.part").write_bytes(b"x" * 500_000)
    assert get(server, tmp_path / "weights.npz").read_bytes() == CONTENT


def test_leftover_longer_than_the_file_is_thrown_away(server, tmp_path):
    (tmp_path / "weights.npz.part").write_bytes(b"x" * (len(CONTENT) + 1))
    assert get(server, tmp_path / "weights.npz").read_bytes() == CONTENT


def test_wrong_bytes_name_both_hashes_and_leave_nothing(server, tmp_path):
    server.content = b"not the weights"
    got = hashlib.sha256(b"not the weights").hexdigest()
    with pytest.raises(ValueError, match=rf"expected sha256 {SHA256}, got {got}. Nothing was kept"):
        get(server, tmp_path / "weights.npz")
    assert leftovers(tmp_path) == []


def test_missing_file(server, tmp_path):
    server.status = 404
    with pytest.raises(FileNotFoundError, match=r"no such file \(HTTP 404\).*HBNN_LARQ_WEIGHTS"):
        get(server, tmp_path / "weights.npz")
    assert len(server.requests) == 1
    assert leftovers(tmp_path) == []


def test_server_fault_is_tried_again_and_then_named(server, tmp_path):
    server.status = 503
    with pytest.raises(ConnectionError, match=r"answered HTTP 503.*put the file into a folder"):
        get(server, tmp_path / "weights.npz", attempts=3)
    assert len(server.requests) == 3


def test_no_network(tmp_path):
    url = "http://127.0.0.1:9/weights.npz"  # nothing listens there
    start = time.monotonic()
    with pytest.raises(ConnectionError, match="cannot be reached"):
        download(url, tmp_path / "weights.npz", sha256=SHA256, attempts=2, pause=0.01)
    assert time.monotonic() - start < 10


def test_a_file_that_is_there_and_right_is_not_fetched(server, tmp_path):
    (tmp_path / "weights.npz").write_bytes(CONTENT)
    get(server, tmp_path / "weights.npz")
    assert server.requests == []


def test_two_at_once_fetch_it_once(server, tmp_path):
    server.delay = 0.01
    threads = [
        threading.Thread(target=get, args=(server, tmp_path / "weights.npz")) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sha256_of(tmp_path / "weights.npz") == SHA256
    assert server.requests == [None]


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        get(server, tmp_path / "file" / "weights.npz")
    assert server.requests == []
