"""Reads entries with redis-py as programs do that know nothing of wasmill.

Usage: consume.py URL STREAM FORM. Prints, a JSON line for each entry, what stands in it: type, id, time in milliseconds
and data where the form has them.
"""

import base64
import json
import sys
from datetime import datetime

import msgpack
import redis


def milliseconds(text):
    # Before Python 3.11 this takes neither `Z` nor fractions of other than 3 or 6 digits.
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def document(unpack):
    def read(fields):
        document = unpack(fields[b"data"])
        told = {"time": milliseconds(document["timestamp"]), "causation": document["attributes"]["causationid"]}
        data = document.get("data")
        return {"type": document["event_type"], "id": document["event_id"], "data": data, **told}

    return read


def fields_of(type, data, unpack):
    def read(fields):
        told = {"time": milliseconds(fields[b"ce_time"].decode()), "causation": fields[b"ce_causationid"].decode()}
        is_usual = b"content-type" not in fields
        body = unpack(fields[data]) if is_usual else fields[data]
        return {"type": fields[type].decode(), "id": fields[b"ce_id"].decode(), "data": body, **told}

    return read


def cloudevents(fields):
    texts = {name.decode(): value.decode() for name, value in fields.items()}
    told = {"id": texts["ce_id"], "causation": texts["ce_causationid"]}
    return {"type": texts["ce_type"], "data": json.loads(texts["data"]), **told}


def dapr(fields):
    event = json.loads(fields[b"data"])
    json.loads(fields[b"metadata"])
    data = base64.b64decode(event["data_base64"]) if "data_base64" in event else event["data"]
    return {"type": event["type"], "id": event["id"], "data": data, "causation": event["causationid"]}


def flat(fields):
    texts = {name.decode(): value.decode() for name, value in fields.items()}
    own = {name: value for name, value in texts.items() if not name.startswith("ce_")}
    told = {"type": texts.get("ce_type", texts["event"]), "causation": texts["ce_causationid"]}
    return {"data": own, **told}


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


def main(url, stream, form):
    client = redis.Redis.from_url(url)
    for entry, fields in client.xrange(stream):
        print(json.dumps({"entry": entry.decode(), **printable(FORMS[form](fields))}))


main(*sys.argv[1:])
