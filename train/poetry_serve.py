"""A page to play with: python -m train.poetry serve DIR, then http://127.0.0.1:8000 in a browser.

Form, theme, author, a first line and the temperature go in; a verse comes out token by token, and then its scansion.
The page is one text without files of its own, and the server says three things: the page, what the model can be asked,
and a verse, as lines of JSON:

    {"text": "श्रीगुरु चरन"}  ...  {"text": the whole verse, "scansion": HTML, "logprob": ln p}    or    {"error": "..."}

It is for one's own machine: it listens on the loopback interface, and answers only requests that were made to it under
a name of that, so that no page from elsewhere can ask. Input is short and checked, and none of it names a file. One
verse is written at a time; some wait for their turn, more are sent away; and a verse has so many seconds.
"""
import argparse
import html
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from minigrad.check import expect
from tok import scan_view
from train import poems
from train.log import slow
from train.poetry_write import Asked, Poet, answered

if TYPE_CHECKING:
    from starlette.applications import Starlette  # an extra

PROMPT, WAITING, SECONDS = 200, 4, 30                      # characters; requests at a time; for a verse
LARGEST = 4096                                             # bytes of a request
TEMPERATURES = (0.0, 2.0)


def add_serve(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("serve", help="a web page on this machine that writes verse",
                                   description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", help="a prepared folder after training, or any with weights")
    parser.add_argument("--port", type=int, default=8000, help="of this machine [8000]")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        import uvicorn
    except ImportError:
        raise ValueError("serve: got no uvicorn; expected it and Starlette. Hint: pip install -e '.[serve]'") from None
    expect(0 < args.port < 65536, "--port", args.port, "1 to 65535")
    socket.create_server(("127.0.0.1", args.port)).close()           # one that is in use is not called ready below
    poet = Poet(poems.model_of(args.folder))
    with slow("compiling kernels, once: later runs find them in a cache"), suppress(ValueError):
        poet.write(Asked())                                # of a model that knows no dohas, who asks first waits
    app = application(poet)
    print(f"http://127.0.0.1:{args.port} writes verse until Ctrl-C", flush=True)
    uvicorn.run(app, host="127.0.0.1", port=args.port, log_level="warning", limit_concurrency=64,
                timeout_keep_alive=5, timeout_graceful_shutdown=2)
    return 0


def asked_of(sent: Any, poet: Poet) -> Asked:
    """The Asked that a request's JSON says, each value of the kind and size that it may have."""
    expect(isinstance(sent, dict), "request", type(sent).__name__, "an object")
    unknown = set(sent) - {"form", "theme", "author", "prompt", "temperature", "seed", "free"}
    expect(not unknown, "request", f"{sorted(unknown)[:1]}", "form, theme, author, prompt, temperature, seed, free")
    for key in ("form", "theme", "author"):
        expect(not sent.get(key) or sent[key] in poet.controls[key], key, repr(sent.get(key))[:60],
               poems.value_of(poet.controls, key))
    prompt, temperature, seed = sent.get("prompt", ""), sent.get("temperature", 0.8), sent.get("seed", 0)
    expect(isinstance(prompt, str), "prompt", type(prompt).__name__, "a text")
    expect(len(prompt) <= PROMPT, "prompt", f"{len(prompt)} characters", f"at most {PROMPT}")
    expect(type(temperature) in (int, float) and TEMPERATURES[0] <= temperature <= TEMPERATURES[1], "temperature",
           repr(temperature)[:60], f"a number from {TEMPERATURES[0]} to {TEMPERATURES[1]}")
    expect(type(seed) is int and 0 <= seed < 2 ** 32, "seed", repr(seed)[:60], "a whole number from 0 to 2^32 - 1")
    form = sent.get("form") or (None if sent.get("free") is True else poet.form_of(prompt)) or "doha"
    asked = Asked(form, sent.get("theme") or None, sent.get("author") or None, prompt, free=sent.get("free") is True,
                  temperature=temperature, seed=seed)
    whole = not asked.free and prompt.strip() and poet.form_of(prompt) == form
    return answered(asked) if whole else asked             # a line that is whole is answered, any other one continued


def verse(poet: Poet, asked: Asked, until: float) -> Iterator[dict]:
    """The parts of an answer, as dicts."""
    begun = poet.begin(asked)[-1]
    in_time(until)                                         # it may have waited long for its turn
    text, logprob = begun, 0.0
    yield {"text": text}
    for step in poet.stream(asked):
        (_, new, logprob), = step
        text = begun + poet.text(new)
        yield {"text": text.rstrip("\ufffd")}              # a character of which a byte is missing
        in_time(until)
    yield {"text": text, "scansion": scansion(text, asked.rules), "logprob": logprob}


def in_time(until: float) -> None:
    expect(time.monotonic() < until, "verse", f"more than {SECONDS} seconds", "a verse by then",
           "a smaller model, or a machine with less to do")


def scansion(text: str, rules: str) -> str:
    """The verse with the weights under it, as HTML; of what cannot be scanned, why."""
    try:
        return scan_view.stanza_in_html(text, rules)
    except ValueError as error:
        return f'<div class="fault">{html.escape(str(error))}</div>'


class Turns:
    """One at a time, and no more than so many that wait."""

    def __init__(self) -> None:
        self.room, self.turn = threading.BoundedSemaphore(WAITING), threading.Lock()

    def take(self, parts: Callable[[float], Iterable[dict]]) -> Iterator[str]:
        """The lines of an answer, when it is its turn. parts(until) gives them."""
        until = time.monotonic() + SECONDS
        if not self.room.acquire(blocking=False):
            yield json.dumps({"error": "too many verses are being written; try again"}) + "\n"
            return
        try:
            expect(self.turn.acquire(timeout=SECONDS), "verse", "no turn", f"one within {SECONDS} seconds")
            try:
                for part in parts(until):
                    yield json.dumps(part, ensure_ascii=False) + "\n"
            finally:
                self.turn.release()
        except ValueError as error:
            yield json.dumps({"error": str(error)}, ensure_ascii=False) + "\n"
        finally:
            self.room.release()


def application(poet: Poet) -> "Starlette":
    """The server as an ASGI application."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import ClientDisconnect
    from starlette.responses import HTMLResponse, JSONResponse, StreamingResponse
    from starlette.routing import Route

    turns, safe = Turns(), {
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
                                   "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}

    class Verse(StreamingResponse):
        """Lines that are closed when a visitor leaves: nobody else does that, and the turn would stay his for ever."""

        def __init__(self, lines, **how):
            super().__init__(lines, **how)
            self.lines = lines

        async def __call__(self, *asgi):
            try:
                await super().__call__(*asgi)
            finally:
                self.lines.close()

    def page(request):
        return HTMLResponse(PAGE, headers=safe)

    def choices(request):
        return JSONResponse({key: poet.controls[key] for key in ("form", "theme", "author")}, headers=safe)

    async def write(request):
        def refused(error, status):
            return JSONResponse({"error": error}, status, headers=safe)

        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":                     # what a form of another page cannot send
            return refused("expected application/json", 415)
        body = b""
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > LARGEST:
                    return refused(f"expected at most {LARGEST} bytes", 413)
        except ClientDisconnect:                           # nobody is left to be told
            return refused("expected a whole request", 400)
        try:
            asked = asked_of(json.loads(body), poet)
        except (ValueError, RecursionError) as error:
            return refused(str(error), 400)
        return Verse(turns.take(lambda until: verse(poet, asked, until)), headers=safe,
                     media_type="application/x-ndjson")

    return Starlette(routes=[Route("/", page), Route("/choices", choices), Route("/write", write, methods=["POST"])],
                     middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"],
                                            www_redirect=False)])


PAGE = f"""<!DOCTYPE html>
<html lang="hi"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>छंद</title><style>
{scan_view.STYLE}
body {{ max-width: 40em; margin: 1em auto; padding: 0 1em; font-size: 1.1em; line-height: 1.6; }}
form {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(9em, 1fr)); gap: .6em; }}
label {{ display: flex; flex-direction: column; font-size: .75em; color: #555; }} .wide {{ grid-column: 1 / -1; }}
select, input, button {{ font: inherit; font-size: 1.2em; min-width: 0; box-sizing: border-box; width: 100%; }}
#verse {{ white-space: pre-wrap; font-size: 1.3em; min-height: 4em; }} #scansion {{ overflow-wrap: anywhere; }}
#scansion .word {{ display: inline-block; }} #error {{ color: #c00; }}
</style></head><body>
<form id="ask">
<label>छंद / form<select id="form"></select></label>
<label>विषय / theme<select id="theme"></select></label>
<label>कवि / author<select id="author"></select></label>
<label>temperature<input id="temperature" type="number" min="0" max="2" step="0.1" value="0.8"></label>
<label class="wide">पहली पंक्ति / first line<input id="prompt" maxlength="{PROMPT}" autocomplete="off"></label>
<label>seed<input id="seed" type="number" min="0" max="4294967295" value="0"></label>
<label>without meter<input id="free" type="checkbox"></label>
<button id="write" class="wide">लिखो / write</button>
</form>
<p id="error" role="alert"></p><p id="verse" lang="hi" aria-live="polite"></p><div id="scansion"></div>
<script>
const at = id => document.getElementById(id);
fetch("/choices").then(answer => answer.json()).then(choices => {{
  for (const [key, values] of Object.entries(choices))
    for (const value of ["", ...values]) at(key).add(new Option(value || "—", value));
}});
at("ask").onsubmit = async event => {{
  event.preventDefault();
  at("error").textContent = at("verse").textContent = at("scansion").textContent = "";
  at("write").disabled = true;
  const sent = {{form: at("form").value, theme: at("theme").value, author: at("author").value,
    prompt: at("prompt").value, temperature: Number(at("temperature").value), seed: Number(at("seed").value),
    free: at("free").checked}};
  const take = line => {{
    const part = JSON.parse(line);
    if (part.error) at("error").textContent = part.error;
    if (part.text) at("verse").textContent = part.text;
    if (part.scansion) at("scansion").innerHTML = part.scansion;
  }};
  try {{
    const answer = await fetch("/write", {{method: "POST", headers: {{"content-type": "application/json"}},
      body: JSON.stringify(sent)}});
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let waiting = "";
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {{
      const lines = (waiting + piece.value).split("\\n");
      waiting = lines.pop();
      lines.forEach(take);
    }}
    if (waiting) take(waiting);
    at("seed").value = (sent.seed + 1) % 4294967296;
  }} catch (error) {{ at("error").textContent = error; }}
  at("write").disabled = false;
}};
</script></body></html>
"""
