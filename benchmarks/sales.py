"""A sales export of the kind that tills write, always the same: one line for each article on a receipt."""

import io
import random
from bisect import bisect
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

SEED = 20261123
ARTICLES = 600
OPENS, CLOSES = 10, 23  # o'clock
BUSY_SECONDS = 95.0  # between two receipts, on average
MOST_LINES = 12
HEADER = (
    "store;till;receipt;line;time;cashier;"
    "ean;article;quantity;unit_price;discount;vat;amount;payment;transaction\n"
)
THINGS = (
    "Espresso",
    "Latte",
    "Tea",
    "Cola",
    "Water",
    "Juice",
    "Burger",
    "Fries",
    "Wrap",
    "Salad",
    "Pizza",
    "Cake",
)
KINDS = (
    "small",
    "medium",
    "large",
    "double",
    "vegan",
    "classic",
    "spicy",
    "menu",
    "kids",
    "XL",
    "to-go",
    "seasonal",
)
PAYMENTS = ("card", "card", "card", "contactless", "contactless", "cash", "voucher")


class Article(NamedTuple):
    ean: str
    name: str
    cents: int
    vat: int  # per cent


class Chance:
    """Draws from `random()` alone: the one method whose sequence Python promises for all versions."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def below(self, end: int) -> int:
        return int(self._random.random() * end)

    def pause(self, mean: float) -> float:
        return 2 * mean * self._random.random()

    def weighted(self, sums: list[float]) -> int:
        """An index, by weights that have been summed up."""
        return bisect(sums, self._random.random() * sums[-1])


def write(path: Path, size: int, seed: int = SEED) -> Path:
    """Exactly `size` bytes; the last line may be cut."""
    text = io.StringIO()
    for line in lines(seed):
        text.write(line)
        if text.tell() >= size:
            break
    path.write_bytes(text.getvalue().encode("ascii")[:size])
    return path


def lines(seed: int) -> Iterator[str]:
    """The header, and receipts without an end."""
    chance = Chance(seed)
    articles = [_article(chance) for _ in range(ARTICLES)]
    popular = list(accumulate(1 / (rank + 8) for rank in range(ARTICLES)))
    store = 100 + chance.below(900)
    now = datetime(2026, 1, 5, OPENS, tzinfo=UTC)
    receipt = 40_000 + chance.below(10_000)
    yield HEADER
    while True:
        receipt += 1
        now = _next(now, chance)
        head = f"{store};{1 + chance.below(4)};{receipt}"
        tail = f"{now:%Y-%m-%dT%H:%M:%S}Z;C{10 + chance.below(14)}"
        # A transaction number is what no compressor gets smaller.
        payment = f"{PAYMENTS[chance.below(len(PAYMENTS))]};{chance.below(16**12):012x}"
        for line in range(1, 2 + chance.below(1 + chance.below(MOST_LINES))):
            sold = _sold(articles[chance.weighted(popular)], chance)
            yield f"{head};{line};{tail};{sold};{payment}\n"


def _next(now: datetime, chance: Chance) -> datetime:
    now += timedelta(seconds=chance.pause(BUSY_SECONDS))
    if now.hour >= CLOSES or now.hour < OPENS:
        now = (now + timedelta(hours=24 - CLOSES + OPENS)).replace(hour=OPENS)
    return now


def _sold(article: Article, chance: Chance) -> str:
    quantity = 1 if chance.below(5) else 2 + chance.below(4)
    discount = 0 if chance.below(12) else article.cents * quantity // 10
    amount = article.cents * quantity - discount
    return (
        f"{article.ean};{article.name};{quantity};{_money(article.cents)};{_money(discount)};"
        f"{article.vat};{_money(amount)}"
    )


def _article(chance: Chance) -> Article:
    name = f"{THINGS[chance.below(len(THINGS))]} {KINDS[chance.below(len(KINDS))]}"
    digits = f"40{chance.below(10**10):010}"
    weights = sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(digits))
    vat = 7 if chance.below(3) == 0 else 19
    return Article(f"{digits}{-weights % 10}", name, 95 + 10 * chance.below(140), vat)


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"
