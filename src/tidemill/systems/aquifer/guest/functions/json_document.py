"""Builds a JSON document, writes and reads it, and sums it up."""

import hashlib
import json
import random
from typing import Any


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """``records`` orders, drawn by ``seed``."""
    rng = random.Random(request["seed"])
    cities = ["Lisbon", "Oslo", "Suzhou", "Quito", "Turin"]
    orders = [
        {
            "id": i,
            "city": rng.choice(cities),
            "items": [{"sku": rng.randrange(999), "price": rng.random()} for _ in range(4)],
        }
        for i in range(request["records"])
    ]
    text = json.dumps(orders, indent=1)
    again = json.loads(text)
    totals: dict[str, float] = {}
    for order in again:
        price = sum(item["price"] for item in order["items"])
        totals[order["city"]] = totals.get(order["city"], 0.0) + price
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"bytes": len(text), "sha256": digest, "totals": sorted(totals.items())}
