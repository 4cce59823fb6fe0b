"""The one error type that all apps share."""


class NetraError(Exception):
    """An anticipated failure that a person or an agent can act on.

    `code` is `noun.problem` and stable; `status` is what HTTP answers with; `retryable` says whether the same request
    may succeed later. `str(error)` is a sentence for the person who caused it: what, where, what would work.
    """

    code = "netra.error"
    status = 400
    retryable = False

    def __init__(self, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after  # seconds, None where unknown


class NotFound(NetraError):
    """It does not exist, or it is not the caller's to see: the two look the same from outside."""

    code = "object.not_found"
    status = 404


class Forbidden(NetraError):
    """The caller may see it but not do this with it."""

    code = "permission.denied"
    status = 403


class Invalid(NetraError):
    """The request cannot be understood; the detail says which part and what would work."""

    code = "request.invalid"
    status = 400
