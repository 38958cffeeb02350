"""The page: a verse comes in pieces and scans, and what a stranger might send is refused; in a browser too, if any."""
import asyncio
import json
import shutil
import socket
import sys
import threading
from types import SimpleNamespace

import pytest
from test_poetry_write import gpt2

from tok.meter import meter
from train import poetry, poetry_serve
from train.poetry_write import Asked, Poet

starlette = pytest.importorskip("starlette", reason="pip install '.[serve]' has the server")
pytest.importorskip("httpx", reason="Starlette's test client wants httpx")
from starlette.testclient import TestClient  # noqa: E402

REQUEST = {"type": "http", "method": "POST", "path": "/write", "query_string": b"", "http_version": "1.1",
           "scheme": "http", "server": ("127.0.0.1", 8000),
           "headers": [(b"host", b"127.0.0.1:8000"), (b"content-type", b"application/json")]}


@pytest.fixture(scope="module")
def client():
    poet = Poet(gpt2())
    poet.write(Asked())                                    # on a busy machine compilers take longer than a verse may
    return TestClient(poetry_serve.application(poet), base_url="http://127.0.0.1:8000")


def ask(client, **sent):
    answer = client.post("/write", json=sent)
    return answer, [json.loads(line) for line in answer.text.splitlines()]


def test_the_page_and_what_may_be_asked(client):
    page = client.get("/")
    assert page.status_code == 200 and "viewport" in page.text and "src=" not in page.text and "http" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert client.get("/choices").json() == {"form": ["chaupai", "doha", "pad"], "theme": ["guru"], "author": ["kabir"]}


def test_a_verse_comes_token_by_token(client):
    sent = dict(form="doha", theme="guru", author="kabir", prompt="श्रीगुरु चरन", temperature=1.0, seed=3)
    answer, parts = ask(client, **sent)
    assert answer.headers["content-type"] == "application/x-ndjson" and len(parts) > 10
    texts = [part["text"] for part in parts]
    assert texts[0] == "श्रीगुरु चरन" and all(b.startswith(a) for a, b in zip(texts, texts[1:]))
    assert "\ufffd" not in "".join(texts)
    assert meter(texts[-1]).form == "doha" and "<ruby" in parts[-1]["scansion"] and parts[-1]["logprob"] < 0
    assert parts == ask(client, **sent)[1]


def test_a_whole_line_is_answered(client):
    text = ask(client, prompt="रहिमन धागा प्रेम का, मत तोरो चटकाय")[1][-1]["text"]
    assert text.startswith("रहिमन धागा प्रेम का, मत तोरो चटकाय।\n") and meter(text).form == "doha"


def test_free_verse_is_shown_with_what_is_wrong(client):
    last = ask(client, form="pad", free=True, temperature=1.5)[1][-1]
    assert "fault" in last["scansion"] or "no form" in last["scansion"]


@pytest.mark.parametrize("sent, why", [
    ({"form": "haiku"}, "form: got 'haiku'"), ({"theme": "../etc"}, "theme: got"), ({"prompt": ["राम"]}, "prompt"),
    ({"prompt": "क" * 201}, "201 characters"), ({"temperature": 3}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": True}, "temperature"), ({"seed": -1}, "seed"), ({"seed": 0.5}, "seed"), ({"path": "/"}, "'path'"),
    ([], "an object"), ({"prompt": "hello"}, "cannot scan 'h'"), ({"form": ["doha"]}, "form"),
])
def test_what_is_not_right_is_refused(client, sent, why):
    answer = client.post("/write", content=json.dumps(sent), headers={"content-type": "application/json"})
    assert answer.status_code == 400 and why in answer.json()["error"]


def test_strangers_are_refused(client):
    json_type = {"content-type": "application/json"}
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    assert client.post("/write", content="{}", headers={"content-type": "text/plain"}).status_code == 415
    said = client.post("/write", content="{", headers={"content-type": "Application/JSON; charset=utf-8"})
    assert said.status_code == 400                         # of that type, and no JSON
    assert client.post("/write", content="{", headers=json_type).status_code == 400
    assert client.post("/write", content="[" * 4000, headers=json_type).status_code == 400
    assert client.post("/write", content=b"\xff", headers=json_type).status_code == 400
    assert client.post("/write", content=" " * 5000, headers=json_type).status_code == 413
    assert client.get("/write").status_code == 405
    assert {client.get(path).status_code for path in ("/../setup.py", "/static/x", "//etc/passwd")} == {404}


def test_a_prompt_that_does_not_fit_says_so(client):
    (error,) = ask(client, form="doha", prompt="मंगल भवन अमंगल हारी है जय जय है")[1]
    assert "a line of doha" in error["error"]


def test_time_is_limited(client, monkeypatch):
    monkeypatch.setattr(poetry_serve, "SECONDS", -1)
    (error,) = ask(client)[1]                              # nothing is written that comes too late
    assert "seconds" in error["error"]


def test_kernels_are_compiled_before_anybody_waits(monkeypatch, capsys):
    """Where nothing is in a cache that takes longer than a verse may, and the first visitor was refused."""
    model, said = gpt2(), []
    monkeypatch.setattr(poetry_serve.poems, "model_of", lambda folder: model)
    monkeypatch.setattr(Poet, "write", lambda poet, asked: said.append((asked, capsys.readouterr().out)))
    monkeypatch.setitem(sys.modules, "uvicorn", SimpleNamespace(run=lambda app, **how: said.append(how["port"])))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert poetry.main(["serve", "folder", "--port", str(port)]) == 2 and not said
        assert "in use" in capsys.readouterr().err
    assert poetry.main(["serve", "folder", "--port", str(port)]) == 0
    assert said == [(Asked(), ""), port] and f"http://127.0.0.1:{port} writes verse" in capsys.readouterr().out


def test_who_leaves_in_the_middle_of_a_request_leaves_no_traceback(client):
    """The application returns where it would raise ClientDisconnect."""
    events, sent = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]), []

    async def receive():
        return next(events)

    async def send(message):
        sent.append(message)

    asyncio.run(client.app(REQUEST, receive, send))
    assert sent[0]["status"] == 400


def test_who_leaves_in_the_middle_of_a_verse_leaves_his_turn(client, monkeypatch):
    monkeypatch.setattr(poetry_serve, "SECONDS", 5)          # that the next one would wait

    async def visit():
        left, events = asyncio.Event(), iter([{"type": "http.request", "body": b"{}", "more_body": False}])

        async def receive():
            for event in events:
                return event
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message.get("body"):                          # a part of the verse, which nobody takes any more
                left.set()
                await asyncio.sleep(60)

        await client.app(REQUEST, receive, send)
    kept, take = [], poetry_serve.Turns.take                 # as a traceback may hold it
    monkeypatch.setattr(poetry_serve.Turns, "take", lambda self, parts: kept.append(take(self, parts)) or kept[-1])
    asyncio.run(visit())
    assert "scansion" in ask(client)[1][-1]


def test_one_writes_some_wait_and_more_are_sent_away():
    turns, inside, go, said = poetry_serve.Turns(), [], threading.Event(), []

    def parts(until):
        inside.append(1)
        assert len(inside) == 1
        go.wait(10)
        yield {"text": "x"}
        inside.pop()

    threads = [threading.Thread(target=lambda: said.append([*turns.take(parts)])) for _ in range(poetry_serve.WAITING)]
    for thread in threads:
        thread.start()
    while turns.room._value:
        pass
    assert "too many" in next(turns.take(parts))
    go.set()
    for thread in threads:
        thread.join()
    assert said == [['{"text": "x"}\n']] * poetry_serve.WAITING
    left = turns.take(parts)
    next(left)
    left.close()                                            # somebody has closed the page
    inside.clear()
    assert [*turns.take(parts)] == ['{"text": "x"}\n']


def test_in_a_browser(tmp_path):
    """Chromium, as wide as a phone: the choices are there, a verse comes, nothing is wider than the screen."""
    uvicorn = pytest.importorskip("uvicorn", reason="pip install '.[serve]' has the server")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright to drive a browser")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser_path:
        pytest.skip("no Chromium")
    server = uvicorn.Server(uvicorn.Config(poetry_serve.application(Poet(gpt2())), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        with playwright.sync_playwright() as p:
            browser = p.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 360, "height": 640})
            errors = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_selector("#form option[value=doha]", state="attached")
            page.select_option("#form", "chaupai")
            page.fill("#prompt", "मंगल भवन")
            page.click("#write")
            page.wait_for_selector("#scansion ruby")
            assert page.inner_text("#verse").startswith("मंगल भवन") and "चौपाई" in page.inner_text("#scansion")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            page.fill("#prompt", "hello <b>")
            page.click("#write")
            page.wait_for_selector("#error:not(:empty)")
            assert "cannot scan" in page.inner_text("#error")
            errors = [error for error in errors if "400" not in error and "favicon" not in error]
            assert not errors
            browser.close()
    finally:
        server.should_exit = True
        thread.join()
