"""The OpenAPI document as a page to read: plain HTML with one style sheet, and nothing that runs or is fetched. Pure.

Whatever stands in the document is text here: all of it is escaped, and the page works where a browser may run no
script at all.
"""

import json
from html import escape
from typing import Any

STYLE_PATH = "/docs/style.css"
METHODS = ("get", "post", "put", "delete")
STYLE = """\
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
details { border: 1px solid #8886; border-radius: .4rem; margin: .4rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; }
pre { background: #8882; border-radius: .4rem; overflow: auto; padding: .6rem; }
code, pre { font: 14px/1.4 ui-monospace, monospace; }
table { border-collapse: collapse; width: 100%; }
td, th { border-bottom: 1px solid #8884; padding: .2rem .6rem .2rem 0; text-align: left; vertical-align: top; }
.method { display: inline-block; font-weight: 700; min-width: 4.5rem; }
nav a { margin-right: 1rem; }
"""


def page_of(document: dict[str, Any]) -> str:
    """Return the page that shows *document*."""
    title = escape(document["info"]["title"])
    tags = document["tags"]
    links = "".join(f'<a href="#{escape(tag["name"])}">{escape(tag["name"])}</a>' for tag in tags)
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: HTTP</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<link rel="stylesheet" href="{STYLE_PATH}"></head><body>',
        f"<h1>{title} {escape(document['info']['version'])}</h1>",
        "".join(f"<p>{_text(each)}</p>" for each in document["info"]["description"].split("\n\n")),
        '<p>The same for programs: <a href="/openapi.json">openapi.json</a></p>',
        f'<nav>{links}<a href="#schemas">schemas</a></nav>',
    ]
    for tag in tags:
        parts.append(f'<h2 id="{escape(tag["name"])}">{escape(tag["name"])}</h2><p>{_text(tag["description"])}</p>')
        parts += [
            _operation(path, method, item[method], item.get("servers", []))
            for path, item in document["paths"].items()
            for method in METHODS
            if method in item and tag["name"] in item[method]["tags"]
        ]
    parts.append('<h2 id="schemas">schemas</h2>')
    for name, schema in document["components"]["schemas"].items():
        head = f'<details id="schema-{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        parts.append(f"{head}{_json(schema)}</details>")
    return "".join([*parts, "</body></html>\n"])


def _operation(path: str, method: str, operation: dict[str, Any], servers: list[dict[str, str]]) -> str:
    also = ", ".join(f"<code>{escape(server['url'])}</code>" for server in servers if server["url"] != "/")
    parts = [
        f'<details><summary><span class="method">{method.upper()}</span> <code>{escape(path)}</code> ',
        f"{_text(operation['summary'])}</summary>",
        "".join(f"<p>{_text(each)}</p>" for each in operation["description"].split("\n\n")),
        f"<p>Also below {also}.</p>" if also else "",
    ]
    if operation["parameters"]:
        rows = "".join(_parameter(parameter) for parameter in operation["parameters"])
        parts.append(f"<table><tr><th>parameter</th><th>in</th><th>value</th></tr>{rows}</table>")
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Body: <code>{escape(media)}</code></p>{_schema(content['schema'])}")
        for name, example in content.get("examples", {}).items():
            parts.append(f"<p>Example: {_text(name.replace('_', ' '))}</p>{_json(example['value'])}")
    rows = "".join(_answer(status, answer) for status, answer in operation["responses"].items())
    return "".join([*parts, f"<table><tr><th>status</th><th>answer</th></tr>{rows}</table></details>"])


def _parameter(parameter: dict[str, Any]) -> str:
    needed = " (required)" if parameter.get("required") else ""
    said = _text(parameter.get("description", ""))
    name = f"<code>{escape(parameter['name'])}</code>{needed}"
    return f"<tr><td>{name}</td><td>{escape(parameter['in'])}</td><td>{_schema(parameter['schema'])}{said}</td></tr>"


def _answer(status: str, answer: dict[str, Any]) -> str:
    shown = "".join(
        f"<code>{escape(media)}</code> {_schema(content['schema'])}"
        for media, content in answer.get("content", {}).items()
    )
    return f"<tr><td>{escape(status)}</td><td>{_text(answer['description'])} {shown}</td></tr>"


def _schema(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}"><code>{name}</code></a>'
    if not schema:
        return ""
    if set(schema) <= {"type", "format", "minLength"}:
        return f"<code>{escape(str(schema.get('type', '')))}</code>"
    return _json(schema)


def _json(value: object) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"


def _text(text: str) -> str:
    """Plain text; what stands between backticks is code."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if place % 2 else piece for place, piece in enumerate(pieces))
