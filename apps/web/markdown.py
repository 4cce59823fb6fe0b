"""Markdown of people and agents as HTML that is safe to show."""

import nh3
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt

# No images: an address in an answer must not be able to call home. No links: answers carry names out of imported data,
# and need none of their own. Both, and raw HTML, are shown as the text they are.
_MARKDOWN = (
    MarkdownIt("commonmark", {"html": False, "breaks": False})
    .enable(["table", "strikethrough"])
    .disable(["image", "link", "autolink"])
)
_TAGS = {
    *("p", "br", "hr", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}


def to_html(text: str) -> SafeString:
    """`text` as sanitized HTML."""
    return _clean(_MARKDOWN.render(text))


def to_inline_html(text: str) -> SafeString:
    """One line of `text` as sanitized HTML: emphasis and code, no blocks."""
    return _clean(_MARKDOWN.renderInline(text))


def _clean(html: str) -> SafeString:
    html = nh3.clean(
        html,
        tags=_TAGS,
        attributes={"ol": {"start"}},
    )
    return mark_safe(html)  # noqa: S308  # nh3 has just sanitized it
