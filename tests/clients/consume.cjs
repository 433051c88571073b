// Reads entries with ioredis as programs do that know nothing of wasmill.
//
// Usage: consume.cjs URL STREAM FORM [last]. Prints, a JSON line for each entry, what stands in it: type, id, time in
// milliseconds, data, and the id of the event that led to it.

const Redis = require("ioredis");
const msgpack = require("@msgpack/msgpack");

const document = (unpack) => (fields) => {
  const { event_type: type, event_id: id, timestamp, data, attributes } = unpack(fields.data);
  return { type, id, time: Date.parse(timestamp), data, causation: attributes?.causationid };
};

const parts = (type, data, unpack) => (fields) => {
  const body = "content-type" in fields ? fields[data] : unpack(fields[data]);
  return { ...attributes(fields), type: String(fields[type]), data: body };
};

const attributes = (fields) => ({
  id: String(fields.ce_id),
  time: Date.parse(String(fields.ce_time)),
  causation: fields.ce_causationid && String(fields.ce_causationid),
});

const FORMS = {
  cloudevents: (fields) => ({ ...attributes(fields), type: String(fields.ce_type), data: JSON.parse(fields.data) }),
  json: document(JSON.parse),
  msgpack: document(msgpack.decode),
  named: parts("name", "body", JSON.parse),
  action: parts("action", "data", JSON.parse),
  "action-msgpack": parts("action", "data", msgpack.decode),
  dapr: (fields) => {
    const { type, id, time, data, data_base64: base64, causationid: causation } = JSON.parse(fields.data);
    JSON.parse(fields.metadata);
    return { type, id, time: Date.parse(time), data: base64 ? Buffer.from(base64, "base64") : data, causation };
  },
  flat: (fields) => {
    const texts = Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, String(value)]));
    const data = Object.fromEntries(Object.entries(texts).filter(([name]) => !name.startsWith("ce_")));
    return { type: texts.event, id: texts.uuid, time: Math.round(texts.at * 1000), data, causation: texts.ce_causationid };
  },
};
// Bytes as `base64:...`. A Buffer has turned itself into an object before it comes here.
function printable(_, value) {
  if (value?.type === "Buffer") return `base64:${Buffer.from(value.data).toString("base64")}`;
  return value instanceof Uint8Array ? `base64:${Buffer.from(value).toString("base64")}` : value;
}

async function main(url, stream, form, option) {
  const redis = new Redis(url, { retryStrategy: () => null });
  const last = () => redis.xrevrangeBuffer(stream, "+", "-", "COUNT", 1);
  for (const [entry, list] of await (option === "last" ? last() : redis.xrangeBuffer(stream, "-", "+"))) {
    const fields = {};
    for (let index = 0; index < list.length; index += 2) fields[String(list[index])] = list[index + 1];
    console.log(JSON.stringify({ entry: String(entry), ...FORMS[form](fields) }, printable));
  }
  redis.disconnect();
}

main(...process.argv.slice(2));
