"""Request bodies; what cannot be read is the sender's mistake, with a sentence, and never a failure of ours."""

from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig, TooManyFieldsSent, TooManyFilesSent
from rest_framework import parsers
from rest_framework.exceptions import ParseError


class JSONParser(parsers.JSONParser):
    """JSON, except that endless nesting is refused like any other malformed body."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        try:
            return super().parse(stream, media_type, parser_context)
        except RecursionError:
            raise ParseError("JSON: it is nested too deeply.") from None
        except RequestDataTooBig:
            raise ParseError(f"JSON: send at most {settings.DATA_UPLOAD_MAX_MEMORY_SIZE:,} bytes.") from None


class UploadParser(parsers.MultiPartParser):
    """Multipart forms, except that an unusable character set is refused like any other malformed body."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        try:
            return super().parse(stream, media_type, parser_context)
        except (UnicodeError, LookupError):
            raise ParseError("Multipart form: the character set cannot be used; send UTF-8.") from None
        except (RequestDataTooBig, TooManyFieldsSent, TooManyFilesSent):
            raise ParseError("Multipart form: send one file, and little beside it.") from None
