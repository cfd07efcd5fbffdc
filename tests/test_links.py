"""Links within the documentation lead somewhere."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
DOCUMENTS = ['README.md', 'experiments/README.md']
_LINK = re.compile(r'\]\(([^)\s]+)\)')
_HEADING = re.compile(r'^#+ (.+)$', re.MULTILINE)


def without_code(text):
    return re.sub(r'^```.*?^```', '', text, flags=re.MULTILINE | re.DOTALL)


def anchors(document):
    """Anchors of the headings, as code hosts make them."""
    headings = _HEADING.findall(without_code(document.read_text()))
    return {
        re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
        for heading in headings
    }


@pytest.mark.parametrize('name', DOCUMENTS)
def test_links_lead_to_files_and_headings(name):
    document = ROOT / name
    links = [
        link
        for link in _LINK.findall(without_code(document.read_text()))
        if not link.startswith('http')
    ]
    assert links
    for link in links:
        path, _, anchor = link.partition('#')
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link
