"""The page at `/`: who may load it, and what it does in a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random

import pytest
from support.browser import CONTROLS, Browser, Tab, browsing, find_chromium
from support.scripted import Say
from support.serving import Running, serving

ASKED = "document.querySelector('.assistant:last-child:not(.busy)')"  # an answer that is over
ANSWER = "document.querySelector('.assistant:last-child .body')"
MARKDOWN = """<think>Let me <b>see</b>.</think>## A *title*

Some **bold**, `co<b>de</b>`, snake_case_name and 2 * 3 * 4.
See [this](https://example.org/a_(b)?c=1) or http://example.org/_x_.

1. one
   - inner

2. two
> quoted

| a | b |
|---|--:|
| 1 | `x` |

```html
<p>**raw**</p>
</script>
```
- - -
***both***<tool_call>{"name": "look", "arguments": {"at": ["a", 1]}}</tool_call>"""
MARKS = [
    *[None] * 12, *[" "] * 8, *["\n"] * 4, "\n\n", "\n\n", "\n    ", "\n  ", "# ", "> ", "- ", "* ",
    "1. ", "7) ", "```", "\n```\n", "~~~", "`", "``", "*", "**", "***", "_", "__", "~~", "|",
    "\n|-|-|\n", "[", "](", "](https://a.b)", "](javascript:", ")", "!", "<b>", "</b>", "<!--",
    "&lt;", "\\", "\\|", "---",
]  # fmt: skip  # None: a word
NOTED = """
const fetched = window.fetch;
window.fetch = (path, options) => {
    window.asked = JSON.parse(options.body);
    return fetched(path, options);
};"""
HARMFUL = """<img src=x onerror="window.harm = 1"><script>window.harm = 1</script></script>

[x](javascript:window.harm=1) [y](data:text/html,x) [z](//example.org) <svg/onload=harm=1>
![i](javascript:window.harm=1) [w](java\tscript:alert(1)) [v](JaVaScRiPt:alert(1))

```"><img src=x onerror=window.harm=1>
<iframe src="javascript:window.harm=1">"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("there is no Chromium here")
    with browsing(chromium) as running:
        yield running


@pytest.fixture(scope="module")
def one_tab(browser: Browser, server: Running) -> Iterator[Tab]:
    with browser.open(server.url + "/") as opened:
        yield opened


@pytest.fixture
def tab(one_tab: Tab, server: Running) -> Tab:
    """The page with nothing kept, once it has found the server's model."""
    one_tab.run("window.onpagehide = null; localStorage.clear(); sessionStorage.clear()")
    one_tab.go(server.url + "/")
    one_tab.wait("document.title !== 'linnet'")
    return one_tab


def ask(tab: Tab, text: str) -> None:
    tab.run("document.querySelector('#text').focus()")
    tab.type(text)
    tab.press("Enter", 13, "\r")


def answered(tab: Tab, text: str) -> str:
    """The answer's text once it is over."""
    ask(tab, text)
    tab.wait(ASKED)
    shown: str = tab.run(f"{ANSWER}.innerText")
    return shown


def set_option(tab: Tab, **values: object) -> None:
    """In the dialog of settings, as a user does."""
    tab.run("document.querySelector('#open-settings').click()")
    for name, value in values.items():
        tab.run(f"document.querySelector('#{name}').value = '{value}'")
    tab.run("document.querySelector('#settings button').click()")
    tab.wait("'linnet.settings' in localStorage")


def test_the_page_may_run_and_load_nothing_but_its_own(server: Running) -> None:
    response = server.get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    policy = response.headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert rules["script-src"].startswith("'sha256-")
    assert "unsafe" not in policy
    assert "innerHTML" not in response.text


def test_without_the_page_there_is_none() -> None:
    with serving(has_page=False) as server:
        assert server.get("/").status_code == 404
        assert server.get("/health").status_code == 200


def test_two_turns_then_a_new_chat_and_back(tab: Tab, server: Running, say: Say) -> None:
    say(server.llm.tokenizer, "It is so.")
    assert answered(tab, "Is it so?") == "It is so."
    assert "tokens/s" in tab.run("document.querySelector('.note').textContent")
    tab.run(NOTED)
    say(server.llm.tokenizer, "Still so.")
    assert answered(tab, "And now?") == "Still so."
    assert tab.run("asked.messages") == [
        {"role": "user", "content": "Is it so?"},
        {"role": "assistant", "content": "It is so."},
        {"role": "user", "content": "And now?"},
    ]
    assert tab.run("document.querySelectorAll('article').length") == 4
    tab.run("document.querySelector('#new').click()")
    assert tab.run("document.querySelectorAll('article').length") == 0
    tab.go(server.url + "/")  # conversations outlive it
    tab.run("document.querySelector('#chats .title').click()")
    assert tab.run("document.querySelectorAll('article').length") == 4
    assert tab.run(f"{ANSWER}.innerText") == "Still so."


def test_an_answer_can_be_had_again_and_copied(tab: Tab, server: Running, say: Say) -> None:
    say(server.llm.tokenizer, "Heads.")
    assert answered(tab, "Toss a coin.") == "Heads."
    say(server.llm.tokenizer, "```\nTails\n```")
    tab.run(NOTED)
    tab.run("document.querySelector('.again').click()")
    tab.wait(f"{ASKED} && {ANSWER}.innerText.includes('Tails')")
    assert tab.run("asked.messages") == [{"role": "user", "content": "Toss a coin."}]
    assert tab.run("document.querySelectorAll('article').length") == 2
    tab.run("navigator.clipboard.writeText = async text => { window.clip = text; }")
    tab.run(f"{ANSWER}.querySelector('button').click()")
    assert tab.run("clip") == "Tails"
    tab.run("document.querySelector('footer button').click()")
    assert tab.run("clip") == "```\nTails\n```"


@pytest.mark.parametrize("how", ["button", "key", "new chat"])
def test_an_answer_can_be_stopped(tab: Tab, server: Running, say: Say, how: str) -> None:
    say(server.llm.tokenizer, "on and " * 2000)
    ask(tab, "Go on.")
    tab.wait(f"{ANSWER}.innerText.includes('on and')")
    assert ("button", "Stop") in tab.controls()
    if how == "key":
        tab.press("Escape", 27)
    else:
        tab.run(f"document.querySelector('{'#stop' if how == 'button' else '#new'}').click()")
    tab.wait("document.querySelector('#stop').hidden && !document.querySelector('#send').hidden")
    server.rests()
    if how == "new chat":
        tab.run("document.querySelector('#chats .title').click()")
    assert tab.run("document.querySelector('.note').textContent") == "stopped"
    assert len(tab.run(f"{ANSWER}.innerText")) < len("on and " * 2000) // 2


def test_an_answer_under_way_outlives_the_page(tab: Tab, server: Running, say: Say) -> None:
    say(server.llm.tokenizer, "on and " * 2000)
    ask(tab, "Go on.")
    tab.wait(f"{ANSWER}.innerText.includes('on and')")
    tab.go(server.url + "/")
    server.rests()
    assert tab.run(f"{ANSWER}.innerText").startswith("on and")


def test_markdown_is_shown(tab: Tab, server: Running, say: Say) -> None:
    say(server.llm.tokenizer, MARKDOWN)
    shown = answered(tab, "Show it.")
    count = "document.querySelectorAll('.assistant {}').length"
    for selector in (
        "h4 > em", "p > strong", "p > code", "ol > li > ul > li", "blockquote > p",
        "th:nth-child(2)", "td > code", ".code pre > code", "hr", "strong > em",
    ):  # fmt: skip
        assert tab.run(count.format(selector)), selector
    assert tab.run(count.format("ol")) == 1
    assert "snake_case_name and 2 * 3 * 4." in shown
    assert tab.run("[...document.querySelectorAll('a')].map(a => [a.href, a.textContent])") == [
        ["https://example.org/a_(b)?c=1", "this"],
        ["http://example.org/_x", "http://example.org/_x"],
    ]
    assert tab.run("document.querySelector('a').rel") == "noopener noreferrer"
    assert tab.run("document.querySelector('pre').textContent") == "<p>**raw**</p>\n</script>"
    assert not tab.run("document.querySelector('details').open")
    assert tab.run("document.querySelector('details div').textContent") == "Let me <b>see</b>."
    call = tab.run("JSON.parse(document.querySelector('.body + div pre').textContent)")
    assert call == {"name": "look", "arguments": {"at": ["a", 1]}}


def test_markdown_of_any_kind_keeps_all_words(one_tab: Tab) -> None:
    """And shows the same where it came piece by piece."""
    random = Random(0)
    pieces = [[random.choice(MARKS) for _ in range(random.randrange(60))] for _ in range(200)]
    texts = [[mark or f"w{i}w" for i, mark in enumerate(each)] for each in pieces]
    wrong = one_tab.run(f"""{json.dumps(texts)}.filter(pieces => {{
        const [whole, grown] = [make("div"), make("div")], text = pieces.join("");
        const words = text => String(text.match(/w\\d+w/g));
        render(whole, text);
        pieces.forEach((_, i) => render(grown, pieces.slice(0, i + 1).join("")));
        return words(whole.textContent) !== words(text) || !grown.isEqualNode(whole);
    }})""")
    assert wrong == []


@pytest.mark.parametrize(
    "text",
    ["> " * 5000, "- " * 5000, "[" * 5000, "`" * 5000 + "a", "*a " * 2600, "**" * 1900 + "a" +
     "**" * 1900, "|" * 3000 + "\n" + "|-" * 3000, "_a_" * 2500, "[a](" * 2000, "\n" * 5000 + "a"],
)  # fmt: skip
def test_markdown_of_any_depth_is_shown_in_a_moment(one_tab: Tab, text: str) -> None:
    one_tab.run(f"render(make('div'), {json.dumps(text)})")  # in less than SECONDS


def test_harmful_markdown_stays_text(tab: Tab, server: Running, say: Say) -> None:
    say(server.llm.tokenizer, HARMFUL)
    tab.run("addEventListener('securitypolicyviolation', event => { window.harm = event; })")
    shown = answered(tab, HARMFUL)
    assert tab.run("document.querySelector('article :is(img, script, iframe, svg, a)') === null")
    assert tab.run("window.harm === undefined")
    for text in HARMFUL.replace("```", "").split("\n")[:-2]:
        assert text in shown
    assert HARMFUL.split("\n")[-1] in shown
    assert tab.run("document.querySelector('.user').textContent") == HARMFUL


def test_a_string_cannot_become_html(tab: Tab) -> None:
    with pytest.raises(RuntimeError, match="TrustedHTML"):
        tab.run("document.querySelector('#log').innerHTML = '<b>x</b>'")


def test_settings_are_sent_and_kept(tab: Tab, server: Running, say: Say) -> None:
    say(server.llm.tokenizer, "one two three four")
    set_option(tab, system="Be brief.", temperature=0.5, max_tokens=2)
    tab.go(server.url + "/?again")
    tab.run(NOTED)
    answered(tab, "Count.")
    asked = tab.run("asked")
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (asked["temperature"], asked["max_tokens"], "top_p" in asked) == (0.5, 2, False)
    note = tab.run("document.querySelector('.note').textContent")
    assert note.endswith("2 tokens · cut at the limit")


def test_a_refusal_is_shown_as_text(tab: Tab, server: Running) -> None:
    text = "word " * (server.llm.n_ctx + 1)
    answered(tab, text)
    messages = [{"role": "user", "content": text}]
    refused = server.refusal("/v1/chat/completions", 400, messages=messages)
    assert tab.run("document.querySelector('.error').innerText") == refused["message"]


@pytest.mark.parametrize(
    ("response", "shown"),
    [
        ("new Response('data: {\"error\": {\"message\": \"<b>no</b>\"}}\\n\\n')", "<b>no</b>"),
        ("new Response('<h1>Bad gateway</h1>', {status: 502})", "<h1>Bad gateway</h1>"),
        ("new Response('', {status: 504})", "HTTP 504"),
        ("new Response('data: ' + chunk + '\\n\\n')", "The connection broke off"),
        ("Promise.reject(new TypeError('Failed to fetch'))", "The server cannot be reached."),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_shown_as_text(tab: Tab, response: str, shown: str) -> None:
    tab.run(f"""var chunk = '{{"choices": [{{"delta": {{"content": "So far"}}}}]}}';
                window.fetch = async () => {response}""")
    assert answered(tab, "Hello.") == ("So far" if "chunk" in response else "")
    assert tab.run("document.querySelector('.error').innerText").startswith(shown)


def test_a_stream_may_be_cut_anywhere(tab: Tab) -> None:
    """Here after each byte; with comments, carriage returns and characters of several bytes."""
    tab.run(r"""window.fetch = async () => {
        const chunk = text => `data: ${JSON.stringify({choices: [{delta: {content: text}}]})}`;
        const rows = [": keepalive\r", "\r", chunk("Grün ") + "\r", "\r", chunk("😀!"), "",
                      "data: [DONE]", "", ""];
        const bytes = [...new TextEncoder().encode(rows.join("\n"))];
        const pull = controller =>
            bytes.length ? controller.enqueue(new Uint8Array([bytes.shift()])) : controller.close();
        return new Response(new ReadableStream({pull}));
    }""")
    assert answered(tab, "Hello.") == "Grün 😀!"
    assert tab.run("document.querySelector('.error').hidden")


def test_shift_enter_begins_a_line(tab: Tab) -> None:
    tab.run("document.querySelector('#text').focus()")
    tab.type("one")
    tab.press("Enter", 13, "\r", shift=True)
    tab.type("two")
    assert tab.run("document.querySelector('#text').value") == "one\ntwo"
    assert tab.run("document.querySelectorAll('article').length") == 0


def test_a_key_is_asked_for_and_kept_for_the_tab(browser: Browser) -> None:
    with serving(api_keys=("secret",)) as server, browser.open(server.url + "/") as tab:
        tab.wait("document.querySelector('#settings').open")
        assert "key" in tab.run("document.querySelector('#model').textContent")
        tab.type("secret")  # it has the focus
        tab.press("Enter", 13, "\r")
        tab.wait(f"document.title === '{server.llm.path.name}'")
        assert tab.run("Object.values(localStorage).join().includes('secret')") is False
        assert tab.run("sessionStorage.getItem('linnet.key')") == '"secret"'


def test_it_fits_a_phone(tab: Tab, server: Running, say: Say) -> None:
    say(server.llm.tokenizer, f"{'wide' * 50}\n\n    {MARKDOWN}\n```\n{'wide ' * 50}\n```")
    tab.resize(360, 640)
    try:
        answered(tab, "wide" * 50)
        assert tab.run("document.documentElement.scrollWidth") == 360
        assert tab.run("document.querySelector('#log').scrollWidth") <= 360
        assert not tab.run("document.querySelector('#side').checkVisibility()")
        tab.run("document.querySelector('#menu').click()")
        assert tab.run("document.querySelector('#side').checkVisibility()")
        tab.run("document.querySelector('#new').click()")
        assert not tab.run("document.querySelector('#side').checkVisibility()")
    finally:
        tab.call("Emulation.clearDeviceMetricsOverride")


def test_all_controls_have_names(tab: Tab, server: Running, say: Say) -> None:
    say(server.llm.tokenizer, MARKDOWN)
    answered(tab, "Hello.")
    found = tab.controls()
    tab.run("document.querySelector('#open-settings').click()")
    found += tab.controls()
    assert {role for role, _ in found} == set(CONTROLS)
    assert ("button", "Delete Hello.") in found
    assert [role for role, name in found if not name.strip()] == []
