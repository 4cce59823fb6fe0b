"""Any table that names its columns halfway sensibly, or whose owner says which column is which."""

import re
from collections.abc import Iterable, Mapping

from apps.optimization.importers import Convention, Importer
from apps.optimization.readers import MAX_NAME, is_storable
from apps.optimization.texts import Texts

# Field -> the names it goes by, in lower case without punctuation; the first that a file has is taken.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "call_id": ("callid", "requestid", "responseid", "id", "genairesponseid"),
    "started_at": (
        "startedat",
        "starttime",
        "timestamp",
        "requesttime",
        "requestedat",
        "createdat",
        "created",
        "datetime",
        "time",
        "date",
        "ts",
    ),
    "ended_at": ("endedat", "endtime", "finishedat", "completedat"),
    "latency_ms": ("latencyms", "durationms", "requestdurationms", "responsetimems", "elapsedms"),
    "first_token_at": ("firsttokenat", "completionstarttime"),
    "model": ("model", "modelname", "modelid", "responsemodel", "requestmodel", "providedmodelname", "engine"),
    "provider": ("provider", "customllmprovider", "providername", "modelprovider", "vendor", "genaisystem"),
    "input_tokens": (
        "inputtokens",
        "prompttokens",
        "contexttokens",
        "requesttokens",
        "tokensin",
        "tokensinput",
        "inputlength",
        "promptlength",
        "ninputtokens",
        "totalinputtokens",
    ),
    "cached_read_tokens": (
        "cachedreadtokens",
        "cachereadinputtokens",
        "cachereadtokens",
        "cachedtokens",
        "cachedinputtokens",
        "inputcachedtokens",
        "inputcacheread",
        "promptcachehittokens",
    ),
    "cached_write_tokens": (
        "cachedwritetokens",
        "cachecreationinputtokens",
        "cachewriteinputtokens",
        "cachewritetokens",
        "cachecreationtokens",
        "inputcachecreation",
    ),
    "cached_write_1h_tokens": ("cachedwrite1htokens", "ephemeral1hinputtokens", "cachewrite1htokens"),
    "output_tokens": (
        "outputtokens",
        "completiontokens",
        "generatedtokens",
        "responsetokens",
        "tokensout",
        "tokensoutput",
        "outputlength",
        "noutputtokens",
        "totaloutputtokens",
    ),
    "reasoning_tokens": ("reasoningtokens", "outputreasoningtokens", "outputreasoning", "thoughtstokens"),
    "input_audio_tokens": ("inputaudiotokens", "promptaudiotokens"),
    "output_audio_tokens": ("outputaudiotokens", "completionaudiotokens"),
    "system_tokens": ("systemtokens", "instructiontokens"),
    "history_tokens": ("historytokens",),
    "retrieved_tokens": ("retrievedtokens", "retrievaltokens"),
    "max_output_tokens": ("maxoutputtokens", "maxtokens", "maxcompletiontokens"),
    "recorded_cost": ("recordedcost", "costusd", "totalcost", "totalcostusd", "responsecost", "cost", "spend"),
    "status": ("status", "state", "outcome", "statuscode", "result"),
    "error": ("error", "errortype", "errorcode", "exceptiontype"),
    "finish_reason": ("finishreason", "stopreason"),
    "user": ("user", "userid", "enduser", "username", "customer", "customerid"),
    "feature": ("feature", "featurename", "usecase", "tag", "application", "appname", "app", "service", "task"),
    "session": ("session", "sessionid", "conversationid", "threadid"),
    "trace_id": ("traceid",),
    "span_id": ("spanid",),
    "parent_id": ("parentid", "parentspanid"),
    "api_key": ("apikey", "apikeyid", "apikeyhash", "apikeyalias", "keyid"),
    "service_tier": ("servicetier",),
    "batch": ("batch", "isbatch"),
    "interactive": ("interactive", "isinteractive", "userfacing", "isuserfacing"),
    "deadline_seconds": ("deadlineseconds", "maxdelayseconds", "deadlines", "slaseconds"),
    "temperature": ("temperature",),
    "stream": ("stream", "streamed", "isstreaming"),
    "tools": ("toolsoffered", "hastools"),
    "quality": ("quality", "qualityscore", "correct"),
    "parameters": ("parameters", "modelparameters"),
    "prompt": ("prompt", "messages", "prompttext", "inputtext", "input", "question", "prompthash"),
    "answer": ("answer", "answertext", "response", "responsetext", "completiontext", "outputtext"),
    "cached_answer": ("cachedanswer",),
}
_FIELD_OF = {name: field for field, names in SYNONYMS.items() for name in names}
# Anthropic's names for cached tokens come with an input count that leaves them out, OpenAI's with one that has them.
_EXCLUSIVE_NAMES = ("cachereadinputtokens", "cachecreationinputtokens")
_INCLUSIVE_NAMES = ("prompttokens",)
# Of OpenAI's Responses API, whose input_tokens has the cached ones.
_INCLUSIVE_PART = ".input_tokens_details."


def generic(texts: Texts, mapping: Mapping[str, str | None]) -> Importer:
    """Takes every table, whether or not some column of it holds token counts."""
    known = {**_guess(texts.columns), **mapping}
    columns = {field: column for field, column in known.items() if column}
    return Importer(
        kind="table",
        documented=_documented(columns),
        columns=columns,
        sql={field: texts.at(column) for field, column in columns.items()},
    )


def _guess(columns: Iterable[str]) -> dict[str, str]:
    """Field -> column. A dotted name counts by its last part if no plain name says the same."""
    best: dict[str, tuple[int, str]] = {}
    for column in filter(_nameable, columns):
        for depth, name in enumerate((plain(column), plain(column.rpartition(".")[2]))):
            if field := _FIELD_OF.get(name):
                rank = SYNONYMS[field].index(name) + 100 * depth
                best[field] = min(best.get(field, (rank, column)), (rank, column))
    return {field: column for field, (_, column) in best.items()}


def _nameable(column: str) -> bool:
    """Whether a column can be stored under its name."""
    return len(column) <= MAX_NAME and is_storable(column)


def plain(name: str) -> str:
    """A column's name without case and punctuation.

    >>> plain("Input Tokens"), plain("gen_ai.usage.input_tokens")
    ('inputtokens', 'genaiusageinputtokens')
    """
    return re.sub(r"[\W_]", "", name.lower())


def _documented(columns: Mapping[str, str]) -> Convention | None:
    names = {plain(column.rpartition(".")[2]) for column in columns.values()}
    if names & set(_INCLUSIVE_NAMES) or any(_INCLUSIVE_PART in column for column in columns.values()):
        return "inclusive"
    return "exclusive" if names & set(_EXCLUSIVE_NAMES) else None
