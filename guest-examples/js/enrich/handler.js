// Enriches orders: checks each one, adds how many items it has, and publishes it again.

import { publish } from "wasmill:events/publisher@0.1.0";
import { log } from "wasi:logging/logging@0.1.0-draft";
import { drill } from "./drill.js";

/**
 * What becomes of an event that cannot be handled: "retry" tries it again later, "reject" is for good. wasmill looks at
 * the payload; an error without one is a fault of the handler, and ends its instance.
 */
class Failure extends Error {
  constructor(tag, message) {
    super(message);
    this.payload = { tag, val: message };
  }
}

export const handler = {
  handle(event, delivery) {
    drill(event);
    const order = parse(event.data);
    const itemCount = countItems(order);
    if (order.flaky === true && delivery.attempt === 1) {
      throw new Failure("retry", "the price list is busy");
    }
    // Whatever else is in the order stays as it is.
    followUp(order.order_id, encode({ ...order, item_count: itemCount }));
    log("info", "enrich", `enriched order ${order.order_id}`);
  },
};

const malformed = (reason) => new Failure("reject", `malformed order: ${reason}`);

function parse(data) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(data));
  } catch (error) {
    throw malformed(error.message);
  }
}

function encode(order) {
  try {
    return new TextEncoder().encode(JSON.stringify(order));
  } catch (error) {
    // Nested too deep.
    throw malformed(error.message);
  }
}

/** Adds up the quantities. Fails if the order is not complete, or its total is not what the items cost (in cents). */
function countItems(order) {
  if (typeof order?.order_id !== "string" || order.order_id === "") throw malformed("order_id is missing");
  if (typeof order.customer !== "string") throw malformed("customer is missing");
  if (!Array.isArray(order.items) || order.items.length === 0) throw malformed("items are missing");
  let count = 0;
  let cost = 0;
  for (const [i, item] of order.items.entries()) {
    if (typeof item?.sku !== "string" || !isCount(item.quantity, 1) || !isCount(item.price, 0)) {
      throw malformed(`items[${i}] is not a sku, a quantity and a price`);
    }
    count += item.quantity;
    cost += item.quantity * item.price;
  }
  if (!Number.isSafeInteger(cost) || !Number.isSafeInteger(count)) {
    throw malformed("the items cost more than can be counted");
  }
  if (order.total !== cost) throw malformed(`the total is ${order.total}, but the items cost ${cost}`);
  return count;
}

const isCount = (value, least) => Number.isSafeInteger(value) && value >= least;

function followUp(subject, data) {
  const draft = {
    stream: "orders.enriched",
    type: "order_enriched",
    subject,
    contentType: "application/json",
    attributes: [],
    data,
  };
  try {
    publish(draft);
  } catch (error) {
    throw new Failure("reject", `cannot publish: ${error.payload.tag} ${error.payload.val}`);
  }
}
