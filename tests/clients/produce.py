"""Writes entries with redis-py as programs do that know nothing of wasmill.

Usage: produce.py URL STREAM FORM [broken]. Prints, a JSON line for each entry, what the entry means.
"""

import base64
import json
import sys
from datetime import datetime, timezone

import msgpack
import redis

MS = 1_700_000_000_500
UTC = datetime.fromtimestamp(MS / 1000, timezone.utc)
ISO = UTC.isoformat()
# What `datetime.utcnow().isoformat()` gives.
NAIVE = UTC.replace(tzinfo=None).isoformat()

ORDER = {"order_id": "py-1", "customer": "Zoë", "total": 12.5, "items": [{"sku": "mug", "quantity": 2}], "note": None}
PHOTO = {"order_id": "py-2", "photo": b"\xff\xd8\x00raw", 7: [1, -2]}


def meant(data, *, id=None, source=None, time=None, type="echo", **more):
    known = {"id": id, "source": source, "time": time, "type": type, **more}
    return {"data": data, **{name: value for name, value in known.items() if value is not None}}


def document(number, time, data, **more):
    return {
        "event_id": f"py-{number}",
        "event_type": "echo",
        "timestamp": time,
        "source": "order-service",
        "version": "1.0",
        "data": data,
        **more,
    }


def documents(pack):
    """A document in one field, with the times that such libraries write."""
    for number, time in enumerate([NAIVE, ISO, MS / 1000, MS, str(MS)], start=1):
        said = meant(ORDER, id=f"py-{number}", source="order-service", time=MS, dataschema="1.0")
        yield {"data": pack(document(number, time, ORDER))}, said
    extras = {"correlation_id": "c-1", "retry_count": 0, "metadata": {"user": "u1"}}
    said = meant([1], id="py-6", correlationid="c-1", retrycount="0", metadata='{"user":"u1"}')
    yield {"data": pack(document(6, ISO, [1], **extras))}, said
    # As little as possible.
    yield {"data": pack({"event_type": "echo", "data": "text"})}, meant("text", source="/faults.in")


def cloudevents():
    fields = {"ce_specversion": "1.0", "ce_id": "py-1", "ce_source": "/shop", "ce_type": "echo", "ce_time": ISO}
    said = meant(ORDER, id="py-1", source="/shop", time=MS)
    yield {**fields, "content-type": "application/json", "data": json.dumps(ORDER)}, said


def msgpacked():
    yield from documents(msgpack.packb)
    # Bytes and keys that are numbers: MsgPack that JSON cannot say.
    said = meant(PHOTO, id="py-8", time=MS, datacontenttype="application/msgpack")
    yield {"data": msgpack.packb(document(8, ISO, PHOTO))}, said
    # The timestamp type of MsgPack itself.
    yield {"data": msgpack.packb(document(9, UTC, ORDER), datetime=True)}, meant(ORDER, id="py-9", time=MS)


def named():
    yield {"name": "echo", "body": json.dumps(ORDER)}, meant(ORDER, source="/faults.in")
    yield {"name": "echo", "body": json.dumps("Zoë", ensure_ascii=False)}, meant("Zoë")


def action(pack):
    yield {"stream": "faults.in", "action": "echo", "data": pack(ORDER)}, meant(ORDER, source="/faults.in")


def action_msgpack():
    yield from action(msgpack.packb)
    fields = {"stream": "faults.in", "action": "echo", "data": msgpack.packb(PHOTO)}
    yield fields, meant(PHOTO, datacontenttype="application/msgpack")


def dapr():
    """The fields that Dapr's component pubsub.redis adds; its runtime wraps what the program publishes."""
    wrapped = {
        "data": ORDER,
        "datacontenttype": "application/json",
        "id": "py-1",
        "pubsubname": "pubsub",
        "source": "checkout",
        "specversion": "1.0",
        "time": "2023-11-14T22:13:20.5Z",
        "topic": "faults.in",
        "traceid": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "",
        "type": "echo",
    }
    metadata = json.dumps({"partitionKey": "c-1"})
    said = meant(ORDER, id="py-1", source="checkout", time=MS, topic="faults.in", partitionkey="c-1")
    yield {"data": json.dumps(wrapped), "metadata": metadata}, said
    # Published with the metadata rawPayload.
    yield {"data": json.dumps(ORDER), "metadata": '{"rawPayload":"true"}'}, meant(ORDER, rawpayload="true")
    # Older versions write no metadata.
    yield {"data": b"\xff\x00raw"}, meant(b"\xff\x00raw", datacontenttype="application/octet-stream")


def flat():
    fields = {"event": "echo", "uuid": "py-1", "at": MS / 1000, "total": 12.5, "customer": "Zoë"}
    texts = {name: str(value) for name, value in fields.items()}
    yield fields, meant(texts, id="py-1", time=MS, source="/faults.in")


def broken(form):
    """What the form does not allow, each with the words that tell what is wrong."""
    raw = b"\xff\x00 no text"
    if form in ("json", "msgpack"):
        yield {"other": raw}, "field `data` is missing"
        yield {"data": raw, "note": raw}, "field `data`: is not a"
    if form == "json":
        # Python writes numbers that are no JSON.
        yield {"data": json.dumps(document(1, ISO, float("nan")))}, "field `data`: is not a JSON object"
        yield {"data": json.dumps(document(1, "yesterday", 1))}, "field `data`, at `/timestamp`: must be a time"
    if form == "msgpack":
        yield {"data": msgpack.packb([1, 2])}, "field `data`: is not a MsgPack map"
        yield {"data": msgpack.packb(document(1, ISO, 1))[:-3]}, "field `data`: is not a MsgPack map"
        yield {"data": msgpack.packb({"event_id": b"\xff"})}, "field `data`, at `/event_id`"
    if form == "named":
        yield {"name": "echo", "body": "{'single': 'quotes'}"}, "field `body`: is not JSON"
        yield {"body": "{}"}, "field `name` is missing"
        yield {"name": raw, "body": "{}"}, "field `name` is not UTF-8"
    if form == "action":
        yield {"action": "echo", "data": raw}, "field `data`: is not JSON"
    if form == "action-msgpack":
        yield {"action": "echo", "data": msgpack.packb(ORDER) + b"\x00"}, "field `data`: is not MsgPack"
    if form == "dapr":
        yield {"metadata": "{}"}, "field `data` is missing"
        yield {"data": "{}", "metadata": "[1]"}, "field `metadata`: is not a JSON object"
        yield {"data": json.dumps({"specversion": "1.0", "id": "1"})}, "the CloudEvent in field `data` is not valid"
    if form == "flat":
        yield {"event": "echo", "photo": raw}, "field `photo` is not UTF-8"
        yield {"event": "echo", raw: "1"}, "is not UTF-8"
        yield {"event": "echo", "at": "soon"}, "field `at`"
    if form == "cloudevents":
        yield {"ce_type": "echo", "data": raw}, "field `ce_id` is missing"


FORMS = {
    "cloudevents": cloudevents,
    "json": lambda: documents(json.dumps),
    "msgpack": msgpacked,
    "named": named,
    "action": lambda: action(json.dumps),
    "action-msgpack": action_msgpack,
    "dapr": dapr,
    "flat": flat,
}


def printable(value):
    """The value with bytes as `base64:...` and keys as text."""
    if isinstance(value, bytes):
        return "base64:" + base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {str(name): printable(member) for name, member in value.items()}
    return [printable(item) for item in value] if isinstance(value, list) else value


def main(url, stream, form, *options):
    client = redis.Redis.from_url(url)
    entries = broken(form) if "broken" in options else FORMS[form]()
    for fields, said in entries:
        entry = client.xadd(stream, fields).decode()
        said = {"fault": said} if isinstance(said, str) else said
        print(json.dumps({"entry": entry, **printable(said)}))


main(*sys.argv[1:])
