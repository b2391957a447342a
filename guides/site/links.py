"""Check the links and the search index of the built site.

    python guides/site/links.py .site

Links inside the site must lead to a page or anchor that exists; the addresses
of other sites are listed, not tried. Terms that readers search for must be in
the title or in the text of a page.
"""

import html.parser
import json
import pathlib
import sys
import urllib.parse


class _Page(html.parser.HTMLParser):
    """The links of a page, the files that it loads, and its anchors."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.links, self.loads, self.anchors = set(), set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {
            given[name] for name in ("id", "name") if name in given
        }
        if tag == "a" and given.get("href"):
            self.links.add(given["href"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon"):
            self.loads.add(given["href"])
        elif given.get("src"):
            self.loads.add(given["src"])


# What readers type into the search, and a page that the search must find.
SEARCHES = {
    "load balancing": "faq.html",
    "FAQ": "faq.html",
    "Colab": "faq.html",
    "citation": "faq.html",
    "install": "faq.html",
    "GPU": "benchmarks.html",
    "dropped token": "glossary.html",
    "capacity": "glossary.html",
    "Mixtral": "kerashub.html",
    "LoRA": "presets.html",
    "export": "backends.html",
    "Hugging Face": "presets.html",
}


def is_elsewhere(address: str) -> bool:
    return bool(urllib.parse.urlsplit(address).netloc)


def check(site: pathlib.Path) -> tuple[list[str], list[str]]:
    """Broken links, each as a line of text, and the addresses elsewhere."""
    pages = {path.resolve(): _Page(path) for path in site.rglob("*.html")}
    if not pages:
        raise ValueError(f"site must be a folder of pages; received {site}.")
    broken, elsewhere = [], set()
    for path, page in sorted(pages.items()):
        name = path.relative_to(site.resolve())
        for address in sorted(page.loads):
            if is_elsewhere(address):
                broken.append(f"{name} loads {address} from elsewhere")
        for address in sorted(page.links | page.loads):
            if is_elsewhere(address):
                elsewhere.add(address)
                continue
            parts = urllib.parse.urlsplit(address)
            if parts.scheme:  # javascript:, data:
                continue
            target = path
            if parts.path:
                start = site if parts.path.startswith("/") else path.parent
                steps = urllib.parse.unquote(parts.path).lstrip("/")
                target = (start / steps).resolve()
            if target.is_dir():
                target = target / "index.html"
            if not target.exists():
                broken.append(f"{name} leads to {address}, which is not there")
            elif parts.fragment and target in pages:
                anchor = urllib.parse.unquote(parts.fragment)
                if anchor not in pages[target].anchors:
                    broken.append(f"{name} leads to {address}: no such anchor")
    return broken, sorted(elsewhere)


def not_found(site: pathlib.Path) -> list[str]:
    """Searches that do not find their page in the index, as lines of text."""
    index = json.loads((site / "search" / "search_index.json").read_text())
    texts = {}
    for entry in index["docs"]:
        page = entry["location"].partition("#")[0] or "index.html"
        text = f"{entry['title']} {entry['text']}".lower()
        texts[page] = texts.get(page, "") + text
    return [
        f"the search for {words!r} does not find {page}"
        for words, page in SEARCHES.items()
        if not all(w in texts.get(page, "") for w in words.lower().split())
    ]


def main(site: str):
    broken, elsewhere = check(pathlib.Path(site))
    print(f"Addresses elsewhere, not tried: {len(elsewhere)}")
    print("\n".join(f"  {address}" for address in elsewhere))
    broken += not_found(pathlib.Path(site))
    if broken:
        sys.exit("Broken:\n" + "\n".join(f"  {line}" for line in broken))
    print("All links inside the site and all searches find their pages.")


if __name__ == "__main__":
    main(*sys.argv[1:])
