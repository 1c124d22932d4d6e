"""Fills a table of an SQLite database in memory and asks it."""

import random
import sqlite3
from typing import Any


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """``rows`` rows."""
    rng = random.Random(request["seed"])
    with sqlite3.connect(":memory:") as base:
        base.execute("create table reading (gauge integer, height real, name text)")
        base.executemany(
            "insert into reading values (?, ?, ?)",
            [
                (rng.randrange(20), rng.random() * 4, f"gauge {rng.randrange(100)}")
                for _ in range(request["rows"])
            ],
        )
        base.execute("create index by_gauge on reading (gauge)")
        means = base.execute(
            "select gauge, count(*), round(avg(height), 6) from reading group by gauge"
        ).fetchall()
        high = base.execute(
            "select count(*) from reading where height > 2 and name like '%7%'"
        ).fetchone()
    base.close()
    return {"means": means[:3], "high": high[0]}


WARM = {"rows": 1, "seed": 0}
