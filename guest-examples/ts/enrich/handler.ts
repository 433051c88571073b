// Enriches orders: checks each one, adds how many items it has, and publishes it again.

import type { Event, FailurePayload, Handler } from "wasmill:events";
import { publish, type PublishError } from "wasmill:events/publisher@0.1.0";
import { log } from "wasi:logging/logging@0.1.0-draft";
import { drill } from "./drill.js";

/** An order, with prices in cents. Whatever else is in it stays as it is. */
interface Order {
  order_id: string;
  customer: string;
  items: Item[];
  total: number;
  /** The price list is busy when this order comes by for the first time. Shows what a retry looks like. */
  flaky?: boolean;
}

interface Item {
  sku: string;
  quantity: number;
  price: number;
}

/** Why an event was not handled. wasmill looks at the payload. */
class Failure extends Error {
  constructor(readonly payload: FailurePayload) {
    super(String(payload.val));
  }
}

const reject = (message: string) => new Failure({ tag: "reject", val: message });
const malformed = (reason: string) => reject(`malformed order: ${reason}`);

export const handler: Handler = {
  handle(event, delivery) {
    drill(event);
    const order = parse(event);
    if (order.flaky === true && delivery.attempt === 1) {
      throw new Failure({ tag: "retry", val: "the price list is busy" });
    }
    const itemCount = order.items.reduce((count, item) => count + item.quantity, 0);
    followUp(order.order_id, encode({ ...order, item_count: itemCount }));
    log("info", "enrich", `enriched order ${order.order_id}`);
  },
};

function parse(event: Event): Order {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(event.data));
  } catch (error) {
    throw malformed((error as Error).message);
  }
  assertOrder(value);
  const cost = value.items.reduce((sum, item) => sum + item.quantity * item.price, 0);
  if (!Number.isSafeInteger(cost)) throw malformed("the items cost more than can be counted");
  if (value.total !== cost) throw malformed(`the total is ${value.total}, but the items cost ${cost}`);
  return value;
}

function assertOrder(value: unknown): asserts value is Order {
  if (!isRecord(value)) throw malformed("not an object");
  const { order_id, customer, items, total } = value;
  if (typeof order_id !== "string" || order_id === "") throw malformed("order_id is missing");
  if (typeof customer !== "string") throw malformed("customer is missing");
  if (!Array.isArray(items) || items.length === 0) throw malformed("items are missing");
  const wrong = items.findIndex((item) => !isItem(item));
  if (wrong >= 0) throw malformed(`items[${wrong}] is not a sku, a quantity and a price`);
  if (!isCount(total, 0)) throw malformed("total is missing");
}

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null;

const isCount = (value: unknown, least: number): value is number =>
  typeof value === "number" && Number.isSafeInteger(value) && value >= least;

const isItem = (value: unknown): value is Item =>
  isRecord(value) && typeof value.sku === "string" && isCount(value.quantity, 1) && isCount(value.price, 0);

function encode(order: Order & { item_count: number }): Uint8Array {
  try {
    return new TextEncoder().encode(JSON.stringify(order));
  } catch (error) {
    // Nested too deep.
    throw malformed((error as Error).message);
  }
}

function followUp(subject: string, data: Uint8Array): void {
  try {
    publish({
      stream: "orders.enriched",
      type: "order_enriched",
      subject,
      contentType: "application/json",
      attributes: [],
      data,
    });
  } catch (error) {
    const { tag, val } = (error as { payload: PublishError }).payload;
    throw reject(`cannot publish: ${tag} ${val}`);
  }
}
