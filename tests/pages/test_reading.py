"""One text on how to read the pages: complete, on every kind of page, and the same in the documentation."""

from pathlib import Path

from _page import Page
from ctxvision.pages.reading import PAGES, TOPICS, as_html, as_markdown

ROOT = Path(__file__).parents[2]


def test_every_topic_is_on_a_page_and_every_kind_of_page_has_one():
    assert {name for topics in PAGES.values() for name in topics} == set(TOPICS)
    templates = {file.name.partition(".")[0] for file in (ROOT / "src/ctxvision/pages").glob("*.html.j2")}
    assert set(PAGES) == templates - {"base", "macros", "report"} | {"server"}
    for kind in templates - {"base", "macros", "report"}:  # a report extends the page of a classifier
        assert f'how_to_read("{kind}", ' in (ROOT / f"src/ctxvision/pages/{kind}.html.j2").read_text("utf-8")
    assert "<!-- how to read this page -->" in (ROOT / "src/ctxvision/serve/static/index.html").read_text("utf-8")


def test_the_text_opens_by_its_heading_and_is_escaped():
    page = Page(as_html(TOPICS))
    assert [tag for tag, _ in page.tags][:3] == ["details", "summary", "dl"]
    for topic in TOPICS.values():
        assert topic.title in page.text
        assert topic.text in page.text
        assert len(topic.text) > 80


def test_the_documentation_has_the_same_text():
    assert as_markdown() in (ROOT / "docs/explain.md").read_text("utf-8")
