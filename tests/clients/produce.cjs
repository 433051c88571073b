// Writes entries with ioredis as programs do that know nothing of wasmill.
//
// Usage: produce.cjs URL STREAM FORM [broken]. Prints, a JSON line for each entry, what the entry means.

const Redis = require("ioredis");
const msgpack = require("@msgpack/msgpack");

const MS = 1_700_000_000_500;
const TIME = new Date(MS);
const ORDER = { order_id: "js-1", customer: "Zoë 🛒", total: 12.5, items: [{ sku: "mug", quantity: 2 }], note: null };
const PHOTO = { order_id: "js-2", photo: new Uint8Array([0xff, 0xd8, 0, 1]) };

const document = (number, timestamp, data, more = {}) => ({
  event_id: `js-${number}`,
  event_type: "echo",
  timestamp,
  source: "cart-service",
  version: 2,
  data,
  ...more,
});

const meant = (data, more = {}) => ({ data, type: "echo", ...more });

function documents(pack) {
  const known = { source: "cart-service", time: MS, dataschema: "2" };
  const times = [TIME.toISOString(), TIME, MS, MS / 1000];
  const entries = times.map((time, index) => [
    ["data", pack(document(index + 1, time, ORDER))],
    meant(ORDER, { id: `js-${index + 1}`, ...known }),
  ]);
  // What is undefined is left out by JSON and null in MsgPack.
  const extras = { correlationId: "c-1", metadata: { user: "u1" }, userId: undefined };
  const said = meant([1, "zwei"], { id: "js-5", correlationid: "c-1", metadata: '{"user":"u1"}' });
  entries.push([["data", pack(document(5, MS, [1, "zwei"], extras))], said]);
  return entries;
}

const FORMS = {
  cloudevents: () => [
    [
      ["ce_id", "js-1", "ce_source", "/shop", "ce_type", "echo", "ce_time", TIME.toISOString(), "data", JSON.stringify(ORDER)],
      meant(ORDER, { id: "js-1", source: "/shop", time: MS }),
    ],
  ],
  json: () => documents(JSON.stringify),
  msgpack: () => [
    ...documents(packed),
    [["data", packed(document(6, MS, PHOTO))], meant(PHOTO, { id: "js-6", datacontenttype: "application/msgpack" })],
  ],
  named: () => [[["name", "echo", "body", JSON.stringify(ORDER)], meant(ORDER, { source: "/faults.in" })]],
  action: () => [[["stream", "faults.in", "action", "echo", "data", JSON.stringify(ORDER)], meant(ORDER)]],
  "action-msgpack": () => [
    [["stream", "faults.in", "action", "echo", "data", packed(ORDER)], meant(ORDER)],
    [["action", "echo", "data", packed(PHOTO)], meant(PHOTO, { datacontenttype: "application/msgpack" })],
  ],
  dapr: () => {
    const event = { specversion: "1.0", id: "js-1", source: "cart", type: "echo", time: TIME.toISOString(), data: ORDER };
    return [[["data", JSON.stringify(event), "metadata", "{}"], meant(ORDER, { id: "js-1", source: "cart", time: MS })]];
  },
  flat: () => {
    const fields = { event: "echo", uuid: "js-1", at: String(MS / 1000), customer: "Zoë 🛒", total: "12.5" };
    return [[Object.entries(fields).flat(), meant(fields, { id: "js-1", time: MS })]];
  },
};

// An invalid date becomes null in JSON; this is what a template string makes of an object.
const BROKEN = {
  json: () => [[["data", `${document(1, MS, 1)}`], "field `data`: is not a JSON object"]],
  named: () => [[["name", "echo", "body", `${ORDER}`], "field `body`: is not JSON"]],
  flat: () => [[["event", "echo", "photo", Buffer.from([0xff, 0])], "field `photo` is not UTF-8"]],
};

function packed(value) {
  return Buffer.from(msgpack.encode(value));
}

// Bytes as `base64:...`.
function printable(_, value) {
  return value instanceof Uint8Array ? `base64:${Buffer.from(value).toString("base64")}` : value;
}

async function main(url, stream, form, option) {
  const redis = new Redis(url, { retryStrategy: () => null });
  const entries = option === "broken" ? (BROKEN[form]?.() ?? []) : FORMS[form]();
  const pipeline = redis.pipeline();
  entries.forEach(([fields]) => pipeline.xadd(stream, "*", ...fields));
  const results = await pipeline.exec();
  entries.forEach(([, said], index) => {
    const [error, entry] = results[index];
    if (error) throw error;
    console.log(JSON.stringify({ entry, ...(typeof said === "string" ? { fault: said } : said) }, printable));
  });
  redis.disconnect();
}

main(...process.argv.slice(2));
