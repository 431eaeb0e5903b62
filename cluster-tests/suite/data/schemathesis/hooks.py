"""Rules of the API that its OpenAPI document can't express, and so schemathesis doesn't know.

`before_call` mends valid requests that break one, so that they test more than the rule.
`filter_failure` is called with each failure of a check. One is dropped only if the request breaks a
rule, and the answer has the code of the error that belongs to it.
"""

import datetime
import json
import re
import urllib.parse

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.openapi.checks import MissingContentType, RejectedPositiveData

BATCH_PATH = "/kv/{bucket}"
EXPORT_PATH = "/buckets/{bucket}/export"
IMPORT_PATH = "/buckets/{bucket}/import"
IMPORT_MODES = (None, "overwrite", "skip", "newer")
EVENT_STREAM = "text/event-stream"
EXPIRY = ("ttl", "expires_at", "persist")
OPERATION_EXPIRY = (*EXPIRY, "expiration", "expiration_ttl")
VALUES = ("value", "value_base64")
MAX_KEY_BYTES = 64
MAX_COMMENT_BYTES = 1024
LIST_TEXTS = ("prefix", "after", "start", "end", "delimiter")
MAX_LIST_TEXT_BYTES = 1024
MAX_METADATA_BYTES = 1024
HUNDRED_YEARS = datetime.timedelta(days=36_500)

# Times to live that the API takes beside the form in the document.
LOOSE_TTL = re.compile(r"[0-9]+|(?:[0-9]+[dhms]){1,4}")


# A time that is neither past nor too far away.
GOOD_TIME = "2060-01-01T00:00:00Z"
GOOD_SECONDS = 2_840_140_800
CONDITIONS = ("If-Match", "If-None-Match")
METADATA = "X-CloudKV-Metadata"
SESSION_TOKEN = "X-CloudKV-Min-Version"


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


@schemathesis.hook
def before_call(context, case, kwargs):
    avoid_event_stream(case.headers)
    avoid_event_stream(kwargs.get("headers"))
    meta = case.meta
    if meta is None or not meta.generation.mode.is_positive:
        return
    if not case.path.startswith("/kv/"):
        if isinstance(case.body, dict):
            drop_fraction(case.body, "default_ttl")
        return
    target = getattr(meta.phase.data, "parameter", None)
    keep_one(case.query, EXPIRY, target)
    if "expires_at" in case.query and is_bad_time(case.query["expires_at"]):
        case.query["expires_at"] = GOOD_TIME
    has_token = case.headers.pop(SESSION_TOKEN, None) is not None
    is_write = case.method.upper() not in ("GET", "HEAD")
    if is_write and keep_one(case.headers, CONDITIONS, target) or has_token:
        # Headers that were changed are checked again, and as text metadata isn't an object.
        case.headers.pop(METADATA, None)
    if case.path == BATCH_PATH and isinstance(case.body, list):
        for operation in case.body:
            mend_operation(operation)


def avoid_event_stream(headers):
    """An event stream has no end, and so a request for one would take for ever."""
    for name, value in list((headers or {}).items()):
        if name.lower() == "accept" and EVENT_STREAM in str(value).lower():
            headers[name] = "application/json"


def keep_one(parameters, names, target):
    """Removes all but one of these parameters; returns whether there were more."""
    given = [name for name in names if name in parameters]
    kept = target if target in given else next(iter(given), None)
    for name in given:
        if name != kept:
            parameters.pop(name)
    return len(given) > 1


def drop_fraction(fields, name):
    if isinstance(fields.get(name), float):
        # To JSON schema 5.0 is an integer; the API wants it without a fraction.
        fields[name] = int(fields[name])


def mend_operation(operation):
    kind = operation.get("op", "put")
    for name in OPERATION_EXPIRY:
        drop_fraction(operation, name)
    if kind == "put":
        operation.pop("base64", None)
        keep_one(operation, VALUES, None)
        if not set(VALUES) & operation.keys():
            operation["value"] = "v"
    if operation.get("persist") is False:
        del operation["persist"]
    keep_one(operation, OPERATION_EXPIRY, None)
    if operation.get("expires_at") is not None and is_bad_time(operation["expires_at"]):
        operation["expires_at"] = GOOD_TIME
    if "expiration" in operation and is_bad_time(operation["expiration"]):
        operation["expiration"] = GOOD_SECONDS
    keep_one(operation, ("if_match", "if_none_match"), None)
    if metadata_bytes(operation) > MAX_METADATA_BYTES:
        del operation["metadata"]
    if kind == "touch" and not {*OPERATION_EXPIRY, "metadata"} & operation.keys():
        operation["persist"] = True


def metadata_bytes(operation):
    return len(json.dumps(operation.get("metadata"), separators=(",", ":")))


@schemathesis.hook
def filter_failure(context, failure, case, response):
    if isinstance(failure, MissingContentType):
        # The parser's answer to what isn't HTTP, such as control characters in a header.
        return not (response.status_code in (400, 431) and not response.content)
    if isinstance(failure, AcceptedNegativeData):
        # Browsers are told the methods, whatever the rest of their request is.
        is_preflight = case.method.upper() == "OPTIONS"
        has_loose_ttl = any(LOOSE_TTL.fullmatch(text) for text in times_to_live(case))
        return not (is_preflight or has_loose_ttl or is_import(case))
    if isinstance(failure, RejectedPositiveData):
        return not any(rule(case) for rule in rules_of(case, response))
    return True


def is_import(case):
    """An import takes any lines: those that are wrong fail one by one."""
    return case.path == IMPORT_PATH and query_of(case).get("mode") in IMPORT_MODES


def rules_of(case, response):
    """Returns the rules by which a request may have been refused."""
    if case.method.upper() == "HEAD":
        # The answer has no code.
        return list(RULES.values()) if response.status_code == 400 else []
    try:
        code = json.loads(response.content).get("error")
    except ValueError:
        return []
    return [RULES[code]] if code in RULES else []


def query_of(case):
    return {name: str(value) for name, value in (case.query or {}).items()}


def header_of(case, name):
    headers = {key.lower(): value for key, value in (case.headers or {}).items()}
    return headers.get(name.lower())


def body_of(case):
    return case.body if isinstance(case.body, dict) else {}


def times_to_live(case):
    names = ("ttl", "default_ttl")
    sources = (query_of(case), body_of(case))
    return [str(source[name]) for source in sources for name in names if name in source]


def is_bad_time(value):
    """A time of expiry must be in the future, and at most 100 years away."""
    try:
        if re.fullmatch(r"[0-9]+", str(value)):
            time = datetime.datetime.fromtimestamp(int(value), datetime.UTC)
        else:
            time = datetime.datetime.fromisoformat(str(value).upper())
    except (ValueError, OverflowError, OSError):
        # Beyond what Python's times can be, or a leap second.
        return True
    now = datetime.datetime.now(datetime.UTC)
    minute = datetime.timedelta(minutes=1)
    return not now + minute < time < now + HUNDRED_YEARS - minute


def has_bad_expiry(case):
    """`ttl`, `expires_at` and `persist` exclude each other."""
    query = query_of(case)
    given = [name for name in EXPIRY if name in query]
    return len(given) > 1 or "expires_at" in given and is_bad_time(query["expires_at"])


def has_bad_parameters(case):
    query, body = query_of(case), body_of(case)
    if case.method.upper() == "PATCH" and case.path.startswith("/kv/"):
        # Something must change.
        return not set(EXPIRY) & query.keys() and header_of(case, METADATA) is None
    if case.path.startswith("/kv/") or case.path == EXPORT_PATH:
        start, end = query.get("start"), query.get("end")
        is_empty_range = bool(start and end) and start.encode() >= end.encode()
        # The document bounds their characters, the API their bytes.
        lengths = [len(query.get(name, "").encode()) for name in LIST_TEXTS]
        is_long = max(lengths) > MAX_LIST_TEXT_BYTES
        has_two_places = bool(query.get("after") and query.get("cursor"))
        return is_empty_range or is_long or has_two_places
    comments = [str(source["comment"]) for source in (query, body) if "comment" in source]
    is_long = any(len(comment.encode()) > MAX_COMMENT_BYTES for comment in comments)
    # A parameter in the query and in the body must be the same.
    both = query.keys() & body.keys()
    return is_long or any(str(body[name]) != query[name] for name in both)


def has_bad_header(case):
    has_both = all(header_of(case, name) is not None for name in CONDITIONS)
    is_write = case.method.upper() not in ("GET", "HEAD")
    metadata = header_of(case, METADATA)
    is_long = metadata is not None and len(str(metadata)) > MAX_METADATA_BYTES
    # Session tokens can't be guessed.
    has_token = header_of(case, SESSION_TOKEN) is not None
    return has_both and is_write or is_long or has_token


def has_long_key(case):
    key = urllib.parse.unquote(str((case.path_parameters or {}).get("key", "")))
    return len(key.encode(errors="surrogatepass")) > MAX_KEY_BYTES


def is_bad_operation(operation):
    kind = operation.get("op", "put")
    expiry = [name for name in OPERATION_EXPIRY if name in operation]
    if operation.get("persist") is False:
        expiry.remove("persist")
    times = [operation.get(name) for name in ("expires_at", "expiration") if name in operation]
    has_values = len(set(VALUES) & operation.keys())
    return (
        len(expiry) > 1
        or any(time is not None and is_bad_time(time) for time in times)
        or kind == "put" and has_values != 1
        or "base64" in operation
        or kind == "touch" and not expiry and "metadata" not in operation
        or "if_match" in operation and "if_none_match" in operation
        or metadata_bytes(operation) > MAX_METADATA_BYTES
    )


def has_bad_operation(case):
    """Fields of an operation may exclude each other; and lines of JSON are but text to OpenAPI."""
    if not isinstance(case.body, list):
        return True
    return any(is_bad_operation(operation) for operation in case.body)


def has_bad_form(case):
    """Names of fields are part of a form's headers, and so without control characters. An import
    has lines, and no array of them."""
    is_form = (case.media_type or "").startswith("multipart/")
    has_bad_name = is_form and any(not name.isprintable() for name in body_of(case))
    return has_bad_name or isinstance(case.body, str) and case.body.lstrip().startswith("[")


# Rules by the code of the error with which a request that breaks them is refused.
RULES = {
    "invalid_ttl": has_bad_expiry,
    "invalid_parameter": has_bad_parameters,
    "invalid_header": has_bad_header,
    "invalid_key": has_long_key,
    "invalid_batch": has_bad_operation,
    "invalid_body": has_bad_form,
    # A cursor comes from an answer.
    "invalid_cursor": lambda case: "cursor" in query_of(case),
}
