"""The links of the built site: those inside it lead somewhere.

    python guides/site/links.py .site

Says what is broken, and lists the addresses elsewhere, which it does not try.
"""

import html.parser
import pathlib
import sys
import urllib.parse


class _Page(html.parser.HTMLParser):
    """What a page links to, what it loads, and where it can be linked to."""

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


def is_elsewhere(address: str) -> bool:
    return bool(urllib.parse.urlsplit(address).netloc)


def check(site: pathlib.Path) -> tuple[list[str], list[str]]:
    """What is broken, each as a line of text, and the addresses elsewhere."""
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


def main(site: str):
    broken, elsewhere = check(pathlib.Path(site))
    print(f"Addresses elsewhere, not tried: {len(elsewhere)}")
    print("\n".join(f"  {address}" for address in elsewhere))
    if broken:
        sys.exit("Broken:\n" + "\n".join(f"  {line}" for line in broken))
    print("All links inside the site lead somewhere.")


if __name__ == "__main__":
    main(*sys.argv[1:])
