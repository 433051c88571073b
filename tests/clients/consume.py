"""Reads entries with redis-py as programs do that know nothing of wasmill.

Usage: consume.py URL STREAM FORM [last]. Prints, a JSON line for each entry, what stands in it: type, id, time in milliseconds,
data, and the id of the event that led to it.
"""

import base64
import json
import sys
from datetime import datetime

import msgpack
import redis


def milliseconds(text):
    time = datetime.fromisoformat(text)
    # Before Python 3.11, `fromisoformat` reads only what `isoformat` writes.
    assert time.isoformat(timespec="milliseconds") == text, text
    return round(time.timestamp() * 1000)


def rfc3339(text):
    """What a library for CloudEvents reads."""
    seconds, _, fraction = text.rstrip("Z").partition(".")
    time = datetime.fromisoformat(f"{seconds}.{fraction[:6]:0<6}+00:00")
    return round(time.timestamp() * 1000)


def document(unpack):
    def read(fields):
        document = unpack(fields[b"data"])
        causation = document.get("attributes", {}).get("causationid")
        told = {"time": milliseconds(document["timestamp"]), "causation": causation}
        data = document.get("data")
        return {"type": document["event_type"], "id": document["event_id"], "data": data, **told}

    return read


def fields_of(type, data, unpack):
    def read(fields):
        causation = fields.get(b"ce_causationid", b"").decode()
        told = {"time": milliseconds(fields[b"ce_time"].decode()), "causation": causation}
        is_usual = b"content-type" not in fields
        body = unpack(fields[data]) if is_usual else fields[data]
        return {"type": fields[type].decode(), "id": fields[b"ce_id"].decode(), "data": body, **told}

    return read


def cloudevents(fields):
    texts = {name.decode(): value.decode() for name, value in fields.items()}
    told = {"time": rfc3339(texts["ce_time"]), "causation": texts.get("ce_causationid")}
    return {"type": texts["ce_type"], "id": texts["ce_id"], "data": json.loads(texts["data"]), **told}


def dapr(fields):
    event = json.loads(fields[b"data"])
    json.loads(fields[b"metadata"])
    data = base64.b64decode(event["data_base64"]) if "data_base64" in event else event["data"]
    told = {"time": rfc3339(event["time"]), "causation": event.get("causationid")}
    return {"type": event["type"], "id": event["id"], "data": data, **told}


def flat(fields):
    texts = {name.decode(): value.decode() for name, value in fields.items()}
    own = {name: value for name, value in texts.items() if not name.startswith("ce_")}
    told = {"time": round(float(texts["at"]) * 1000), "causation": texts.get("ce_causationid")}
    return {"type": texts["event"], "id": texts["uuid"], "data": own, **told}


FORMS = {
    "cloudevents": cloudevents,
    "json": document(json.loads),
    "msgpack": document(lambda packed: msgpack.unpackb(packed, strict_map_key=False)),
    "named": fields_of(b"name", b"body", json.loads),
    "action": fields_of(b"action", b"data", json.loads),
    "action-msgpack": fields_of(b"action", b"data", lambda packed: msgpack.unpackb(packed, strict_map_key=False)),
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
    entries = client.xrevrange(stream, count=1) if "last" in options else client.xrange(stream)
    for entry, fields in entries:
        print(json.dumps({"entry": entry.decode(), **printable(FORMS[form](fields))}))


main(*sys.argv[1:])
