"""Enriches orders: checks each one, adds how many items it has, and publishes it again."""

import json
import re
from typing import Any, NoReturn

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports.logging import Level, log
from wit_world.imports.publisher import publish
from wit_world.imports.types import Delivery, Draft, Event, Failure_Reject, Failure_Retry
from drill import drill


# Levels that an order may be nested. Reading JSON takes stack for each, of which a handler has half a MiB.
MAX_DEPTH = 100
STRING = re.compile(r'"(?:[^"\\]|\\.)*+"')


class Handler(exports.Handler):
    """What wasmill calls. An `Err` says what becomes of the event; any other exception ends the instance."""

    def handle(self, event: Event, delivery: Delivery) -> None:
        drill(event)
        try:
            order = parse(event.data)
            # Whatever else is in the order stays as it is.
            enriched = json.dumps({**order, "item_count": count_items(order)}).encode()
        except ValueError as error:
            raise Err(Failure_Reject(f"malformed order: {error}")) from error
        if order.get("flaky") is True and delivery.attempt == 1:
            raise Err(Failure_Retry("the price list is busy"))
        follow_up(order["order_id"], enriched)
        log(Level.INFO, "enrich", f"enriched order {order['order_id']}")


def parse(data: bytes) -> dict[str, Any]:
    text = data.decode()
    check_nesting(text)
    order = json.loads(text, parse_constant=no_constant)
    if not isinstance(order, dict):
        raise ValueError("not an object")
    return order


def check_nesting(text: str) -> None:
    depth = 0
    for bracket in re.findall(r"[][{}]", STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def no_constant(name: str) -> NoReturn:
    """Python would read NaN and Infinity, which are not JSON."""
    raise ValueError(f"{name} is not JSON")


def count_items(order: dict[str, Any]) -> int:
    """Adds up the quantities. Fails if the order is not complete, or its total is not what the items cost (in cents)."""
    match order:
        case {"order_id": str(order_id), "customer": str(), "items": [_, *_] as items, "total": total} if order_id:
            order_id.encode()  # JSON can hold half a character, which is no text that could be passed on.
        case _:
            raise ValueError("order_id, customer, items or total is missing")
    for i, item in enumerate(items):
        match item:
            case {"sku": str(), "quantity": quantity, "price": price} if is_count(quantity, 1) and is_count(price, 0):
                pass
            case _:
                raise ValueError(f"items[{i}] is not a sku, a quantity and a price")
    cost = sum(item["quantity"] * item["price"] for item in items)
    if not is_count(total, 0) or total != cost:
        raise ValueError(f"the total is {total}, but the items cost {cost}")
    return sum(item["quantity"] for item in items)


def is_count(value: object, least: int) -> bool:
    """Whether a value is a whole number that JSON readers agree about: they have 53 bits for it."""
    return type(value) is int and least <= value < 2**53


def follow_up(subject: str, data: bytes) -> None:
    draft = Draft(
        stream="orders.enriched",
        type="order_enriched",
        subject=subject,
        schema_version=None,
        partition_key=None,
        content_type="application/json",
        attributes=[],
        data=data,
        delay_ms=None,
    )
    try:
        publish(draft)
    except Err as refused:
        raise Err(Failure_Reject(f"cannot publish: {refused.value}")) from refused
